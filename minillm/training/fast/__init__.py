r"""A block of a model trained by hand-written code: the kernel, its functions over tensors, and when it can be used."""
