r"""A long text in passages that are short enough to be found and to be read."""

import re


def split_passages(text: str, n_words: int, overlap: int = 0) -> list[str]:
    r"""Cut a text into runs of words that may overlap.

    Args:
        text: any text.
        n_words: words a passage, at least 1; the last may have fewer.
        overlap: words that a passage shares with the next, less than n_words. A fact of up to overlap + 1 words is
            whole in some passage, wherever the cuts fall.
    Returns: passages, with the white space that stood between their words.
    Raises:
        ValueError: if n_words is less than 1, or overlap is not between 0 and n_words - 1.
    Lesson: 16.
    """
    if n_words < 1 or not 0 <= overlap < n_words:
        raise ValueError(f"n_words={n_words}, overlap={overlap}: use at least one word, and share fewer than that")
    words = [match.span() for match in re.finditer(r"\S+", text)]
    last_start = max(len(words) - overlap, 1) if words else 0
    return [text[words[start][0] : words[min(start + n_words, len(words)) - 1][1]]
            for start in range(0, last_start, n_words - overlap)]
