"""From a study's file to its runs: the file with its includes, its entries, the grid written out, the runs.

May import `training`, `outputs`, `methods`, `tasks`, `data`, `models`, `store`, `languages`, `config`.
"""
