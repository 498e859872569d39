r"""A tokenizer whose tokens are the words and punctuation marks of a small, fixed vocabulary."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
_CLOSING_MARKS = frozenset(".,;:!?")


def split_words(text: str) -> list[str]:
    r"""Cut a text into words and single punctuation marks; white space only separates.

    Args:
        text: any text.
    Returns: the words and marks in order; "Hi, Tom." gives ["Hi", ",", "Tom", "."].
    Lesson: 01.
    """
    return _WORD_OR_MARK.findall(text)


def join_words(words: Sequence[str]) -> str:
    r"""Write words as a text: a space before each, except the first and closing marks such as "." and ",".

    Args:
        words: words and marks, as `split_words` gives them.
    Returns: the text; `split_words` of it gives the same words again.
    Lesson: 01.
    """
    return "".join(word if i == 0 or word in _CLOSING_MARKS else " " + word for i, word in enumerate(words))


class WordTokenizer:
    r"""One id for each word of a fixed vocabulary, after three special tokens.

    Ids 0, 1, 2 are padding, begin and end of a text (`pad_id`, `bos_id`, `eos_id`); the words follow in the order
    given. `decode(encode(text)) == text` for every text that is written as `join_words` writes it: one space between
    words, none before a closing mark.

    Args:
        words: the vocabulary without the special tokens; each a single word or mark, none twice.
    Raises:
        ValueError: if a word is given twice or is not one word.
    Lesson: 01.
    """

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, words: Sequence[str]) -> None:
        for word in words:
            if split_words(word) != [word]:
                raise ValueError(f"words must hold single words or marks, not {word!r}")
        self.vocabulary = (PAD, BOS, EOS, *words)
        self._ids = {word: i for i, word in enumerate(self.vocabulary)}
        if len(self._ids) < len(self.vocabulary):
            twice = sorted({word for word in words if list(words).count(word) > 1})
            raise ValueError(f"words must not repeat, but {twice} do; give each once")

    @property
    def vocab_size(self) -> int:
        r"""The number of ids, the three special tokens included."""
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        r"""Turn a text into token ids, without adding special tokens.

        Args:
            text: words of the vocabulary, separated by white space or marks.
        Returns: an id for each word and mark.
        Raises:
            ValueError: if a word is not in the vocabulary; the message names it and its place.
        Lesson: 01.
        """
        token_ids = []
        for i, word in enumerate(split_words(text)):
            if word not in self._ids:
                raise ValueError(
                    f"word {i + 1} of the text, {word!r}, is not among the {self.vocab_size - 3} words of this "
                    "vocabulary; use words listed in tokenizer.vocabulary"
                )
            token_ids.append(self._ids[word])
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        r"""Turn token ids back into a text.

        A begin token in front is dropped, and the text stops at the first end token, so a model's raw output can be
        read. A special token anywhere else is a mistake of whoever wrote the ids, and is shown as it is.

        Args:
            token_ids: ids from 0 to vocab_size - 1.
        Returns: the text.
        Raises:
            ValueError: if an id is out of range.
        Lesson: 01.
        """
        words = []
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"token_ids[{i}] is {token_id}; ids of this vocabulary go from 0 to {self.vocab_size - 1}"
                )
            if token_id == self.eos_id:
                break
            if not (token_id == self.bos_id and i == 0):
                words.append(self.vocabulary[token_id])
        return join_words(words)

    def to_dict(self) -> dict[str, Any]:
        r"""Describe this tokenizer by plain values, for a checkpoint."""
        return {"kind": "words", "words": list(self.vocabulary[3:])}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WordTokenizer":
        r"""Build the tokenizer that `to_dict` described."""
        return cls(values["words"])
