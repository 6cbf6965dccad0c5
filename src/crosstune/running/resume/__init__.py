"""How a run that was stopped goes on: locks, the folder of an unfinished run, passes that killed a process.

May import `recording`, `task_data`.
"""
