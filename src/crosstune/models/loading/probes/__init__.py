"""Small copies of encoders and of encoder-decoders, held against attention written out.

May import `copies` and `config` of the folder above, and the models that it loads.
"""
