"""What a run takes from runs made before it: a search's weights, and stages.

May import `progress`, `recording`, `task_data`.
"""
