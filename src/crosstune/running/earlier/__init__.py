"""What a run takes from runs made before it: a search's weights, and stages.

May import `recording`, `task_data`.
"""
