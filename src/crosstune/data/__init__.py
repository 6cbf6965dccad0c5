"""Examples, and the files and hub datasets they are read from. Knows no task and no prompt.

May import `models`, `metrics`, `languages`, `config`.
"""
