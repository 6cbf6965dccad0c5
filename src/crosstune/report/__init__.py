"""How results are shown: tables in the terminal, charts, and one HTML file."""
