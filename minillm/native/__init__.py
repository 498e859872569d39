r"""C++ of our own: one file of it becomes a library, once, wherever there is a compiler."""
