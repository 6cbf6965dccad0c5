"""Trained runs for other programs: PEFT's folders, merged checkpoints, model cards, the hub.

May import `analysis`, `running`, `outputs`, `methods`, `tasks`, `data`, `models`, `metrics`,
`store`, `languages`.
"""
