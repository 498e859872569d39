r"""Finding passages that may hold the answer: by words, by vectors, by both."""
