"""Resuming a stopped run: locks, the folder of an unfinished run, passes that killed a process.

May import `recording`, `task_data`.
"""
