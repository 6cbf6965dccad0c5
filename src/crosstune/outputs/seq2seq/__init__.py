"""Answers of encoder-decoders: the encoder reads a prompt, the decoder writes the answer or scores choices.

May import `base`, `choices`, `decoding`, `journal`, `rows`, `settings`, `stream`.
"""
