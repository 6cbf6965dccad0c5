"""Forms of answers: what rows train them, how a model computes them, what is kept of each.

May import `tasks`, `methods`, `data`, `models`, `metrics`, `languages`, `config`.
"""
