r"""A tokenizer whose tokens are the bytes of the text in UTF-8; also the bytes that BPE starts from."""

from collections.abc import Mapping, Sequence
from typing import Any


def utf8_bytes(text: str) -> bytes:
    r"""Write a text as UTF-8.

    Args:
        text: any Unicode text.
    Returns: its bytes.
    Raises:
        ValueError: if the text holds half of a surrogate pair, which is no character and has no UTF-8.
    Lesson: 01.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text[{error.start}] is {text[error.start]!r}, half of a surrogate pair, which UTF-8 cannot write; "
            "read the text with the right encoding, or drop it with text.encode('utf-8', 'ignore').decode()"
        ) from None


class ByteTokenizer:
    r"""256 ids, one for each byte: any text can be encoded, and nothing has to be trained.

    A model may write bytes that are no UTF-8; `decode` shows such a byte as U+FFFD, the replacement character.

    Lesson: 01.
    """

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        r"""Turn a text into the bytes of its UTF-8.

        Args:
            text: any Unicode text.
        Returns: ids from 0 to 255; one to four a character.
        Raises:
            ValueError: if the text holds half of a surrogate pair.
        Lesson: 01.
        """
        return list(utf8_bytes(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        r"""Turn bytes back into a text.

        Args:
            token_ids: ids from 0 to 255.
        Returns: the text; U+FFFD where the bytes are no UTF-8.
        Raises:
            ValueError: if an id is out of range.
        Lesson: 01.
        """
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < 256:
                raise ValueError(f"token_ids[{i}] is {token_id}; a byte goes from 0 to 255")
        return bytes(token_ids).decode("utf-8", errors="replace")

    def to_dict(self) -> dict[str, Any]:
        r"""Describe this tokenizer by plain values, for a checkpoint."""
        return {"kind": "bytes"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ByteTokenizer":
        r"""Build the tokenizer that `to_dict` described."""
        return cls()
