"""Charts, each a function from a section's numbers to an Altair chart.

May import `sections`, `comparison`, `text`.
"""
