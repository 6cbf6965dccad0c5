"""Tables, for the terminal, CSV and LaTeX.

May import `contents`, `effort`, `findings`, `sections`, `text`.
"""
