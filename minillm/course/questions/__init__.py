r"""Questions with choices that come with the course, for `minillm.inference.multiple_choice`."""

from pathlib import Path


def general_knowledge() -> Path:
    r"""Where 64 questions of general knowledge lie, each with four choices; every place is right 16 times.

    Returns: the path of a JSON file.
    """
    return Path(__file__).parent / "general_knowledge.json"
