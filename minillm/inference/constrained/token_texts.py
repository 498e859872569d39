r"""What each token adds to a text, as bytes."""

from typing import Any

from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer
from minillm.text.words import WordTokenizer, join_words


def token_texts(tokenizer: Any, at_start: bool) -> list[bytes]:
    r"""The bytes that each token writes.

    For most tokenizers they are the same everywhere. A tokenizer of words puts a space before a word, but none at the
    beginning of a text and before a closing mark.

    Args:
        tokenizer: one of ours, or any that has `token_bytes`.
        at_start: whether the token is the first of the whole text, that is, nothing but a begin token is before it.
    Returns: bytes for each id; empty for what is no text (padding, begin, end).
    Raises:
        TypeError: if the tokenizer is of no known kind.
    Lesson: 09.
    """
    if hasattr(tokenizer, "token_bytes"):  # BPE; the text of a special token is its name, and is no text
        no_text = frozenset(getattr(tokenizer, "special_ids", ()))
        return [b"" if i in no_text else text for i, text in enumerate(tokenizer.token_bytes)]
    if isinstance(tokenizer, ByteTokenizer):
        return [bytes([i]) for i in range(256)]
    if isinstance(tokenizer, CharTokenizer):
        return [character.encode() for character in tokenizer.characters]
    if isinstance(tokenizer, WordTokenizer):
        special = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)
        before = [] if at_start else ["x"]
        texts = [join_words([*before, word]).removeprefix("".join(before)) for word in tokenizer.vocabulary]
        return [b"" if i in special else text.encode() for i, text in enumerate(texts)]
    raise TypeError(f"tokenizer is a {type(tokenizer).__name__}: give it a list `token_bytes`, the bytes of each token")
