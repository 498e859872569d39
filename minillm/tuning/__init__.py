r"""Change a trained model by training little: methods that add small parts to a frozen model."""
