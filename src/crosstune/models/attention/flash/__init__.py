"""PyTorch's flash kernel without gradients: steps that read a cache in place, and trees of texts.

May import `trees`.
"""
