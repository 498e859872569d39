r"""The parts of a model: pure functions first, then thin modules; they take tensors and plain numbers, never a config."""
