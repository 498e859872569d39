r"""Showing text while it is written: a token may end in the middle of a character."""

import codecs
from collections.abc import Sequence


def decode_pieces(token_bytes: Sequence[bytes]) -> list[str]:
    r"""Say for each token what new text can be shown.

    The bytes of a character that is not complete yet are kept back until it is; everything before them is shown.

    Args:
        token_bytes: the bytes of each token, in order; together they are UTF-8.
    Returns: a piece of text for each token, perhaps empty; joined, they are the text.
    Source: the Unicode Standard, section 3.9 (UTF-8: how many bytes a character has stands in its first byte).
    Lesson: 01.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(piece) for piece in token_bytes]
