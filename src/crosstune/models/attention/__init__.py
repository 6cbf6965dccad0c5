"""One hook for all attention, and who sees whom in each form of a batch.

May import `adaptation`, `family`, `proof`, `protocol`.
"""
