r"""Words for looking things up."""

import re

_WORD = re.compile(r"[^\W_]+")


def search_words(text: str) -> list[str]:
    r"""The words of a text, in lower case; runs of letters and digits, of any script.

    Names as in code fall into their parts: `os.path_join` gives os, path, join.

    Args:
        text: any text.
    Returns: words, in order.
    Lesson: 16.
    """
    return _WORD.findall(text.casefold())
