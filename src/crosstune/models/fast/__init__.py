"""Faster ways to the same numbers, each compared with the plain way before use; `shards`: over several GPUs.

May import `attention`, `memory`, `parts`, `proof`, `protocol`.
"""
