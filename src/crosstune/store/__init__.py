"""The folder of results: one folder a run, written whole, checked, read. Never touches a model.

May import `languages`, `config`.
"""
