"""What a study will take before it is run: its runs, what is done, time and memory.

May import `report`, `analysis`, `running`, `study`, `training`, `outputs`, `methods`, `tasks`, `data`,
`models`, `store`, `config`.
"""
