"""Faster ways to the same numbers, each compared with the plain way before it is used.

May import `attention`, `memory`, `parts`, `proof`, `protocol`.
"""
