"""The training loop, its batches, objectives, checkpoints and settings.

May import `outputs`, `methods`, `models`, `config`.
"""
