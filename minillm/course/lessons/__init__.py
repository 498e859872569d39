r"""The exercises, a file a lesson; each file holds them in a tuple EXERCISES."""
