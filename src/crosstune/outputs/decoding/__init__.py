"""Writing answers, the same for causal models and encoder-decoders: beam search, and where answers end.

May import `settings`.
"""
