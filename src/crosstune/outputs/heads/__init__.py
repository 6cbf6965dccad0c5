"""Forms of answers that are told from a text's states, by a trained head or by themselves.

May import `base`, `journal`, `rows`, `settings`, `stream`.
"""
