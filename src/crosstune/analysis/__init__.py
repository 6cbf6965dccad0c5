"""What predictions say: pure functions from settings and predictions to tables. Never touches a model.

May import `store`, `metrics`, `data`, `languages`.
"""
