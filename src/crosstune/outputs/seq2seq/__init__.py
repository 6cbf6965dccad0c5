"""Answers of encoder-decoders: the encoder reads a prompt, the decoder writes the answer or scores choices.

May import `base`, `choices`, `generation`, `journal`, `rows`, `settings`, `stream`.
"""
