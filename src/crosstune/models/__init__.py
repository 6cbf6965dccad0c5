"""Models: loading, parts and sizes, attention, memory, and what methods leave on them.

May import `config`.
"""
