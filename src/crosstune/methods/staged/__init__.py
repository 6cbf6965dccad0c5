"""Methods on parts that are trained before them, on unlabelled text.

May import `adapters`, `sparse`, `base`, `config`, `deferred`.
"""
