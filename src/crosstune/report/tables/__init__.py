"""Tables, for the terminal, CSV and LaTeX.

May import `contents`, `findings`, `sections`, `text`.
"""
