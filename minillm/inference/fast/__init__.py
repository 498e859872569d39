r"""Decoding as fast as the memory allows: the fast path in plain PyTorch, and a kernel of our own (lesson 11)."""
