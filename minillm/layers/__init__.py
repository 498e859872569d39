r"""The parts of a model: pure functions first, then thin modules; tensors and plain numbers in, never a config."""
