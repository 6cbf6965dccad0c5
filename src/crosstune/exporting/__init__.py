"""Trained runs for other programs: PEFT's folders, merged checkpoints, model cards, the hub.

May import `analysis`, `running`, `methods`, `models`, `store`, `languages`.
"""
