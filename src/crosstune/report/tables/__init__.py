"""Tables, for the terminal, CSV and LaTeX."""
