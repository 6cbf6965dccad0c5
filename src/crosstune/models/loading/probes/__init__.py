"""Small copies of encoders and of encoder-decoders, held against attention written out (`independent`).

May import `copies` and `config` of the folder above, and the models that it loads.
"""
