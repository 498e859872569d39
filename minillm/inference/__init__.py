r"""Using a trained model: sampling, generation, evaluation, and caches of other kinds."""
