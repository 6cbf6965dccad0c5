"""Results that other programs made, as runs of a store: the same tests, page and verdicts.

May import `data`, `store`, `languages`.
"""
