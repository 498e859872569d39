r"""Weights in fewer bits: formats, products over them, and whole models (lesson 11).

Pure functions first, one idea a file; `linears` and `packed` make modules of them, `convert` makes models.
"""
