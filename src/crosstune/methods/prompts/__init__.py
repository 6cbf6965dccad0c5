"""Methods that learn prompt tokens, in front of the text or in every layer.

May import `base`, `config`, `deferred`.
"""
