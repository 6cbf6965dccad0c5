"""Published claims, and what a store's results say of them. Never touches a model.

May import `analysis`, `store`, `metrics`, `data`, `languages`, `config`.
"""
