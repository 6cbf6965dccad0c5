"""How results are shown: one list of contents, as an HTML page, files, and tables in the terminal.

May import `claims`, `analysis`, `metrics`, `store`, `languages`, `data`, `config`.
"""
