r"""minillm: a course that builds a small GPT part by part."""

__version__ = "0.1.0"
