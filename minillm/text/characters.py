r"""A tokenizer whose tokens are the characters of a text."""

from collections.abc import Mapping, Sequence
from typing import Any


class CharTokenizer:
    r"""One id for each character of a fixed alphabet.

    Args:
        characters: the alphabet; the id of a character is its place. `CharTokenizer.from_text` collects it from a text.
    Raises:
        ValueError: if a character occurs twice.
    Lesson: 01.
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._ids = {character: i for i, character in enumerate(characters)}
        if len(self._ids) < len(characters):
            twice = sorted({c for c in characters if characters.count(c) > 1})
            raise ValueError(f"characters must not repeat, but {twice} do; give each once")

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        r"""Make a tokenizer for the characters of a text, sorted by code point.

        Args:
            text: the text; every character that is to be encoded later must occur in it.
        Lesson: 01.
        """
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        r"""The number of characters in the alphabet."""
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        r"""Turn a text into token ids.

        Args:
            text: characters of the alphabet only.
        Returns: an id for each character.
        Raises:
            ValueError: if a character is not in the alphabet; the message names it and its place.
        Lesson: 01.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            at = next(i for i, character in enumerate(text) if character not in self._ids)
            character = text[at]
            line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
            raise ValueError(
                f"text[{at}] (line {line}, column {column}) is {character!r} (U+{ord(character):04X}), which is not "
                f"among the {self.vocab_size} characters of this tokenizer; build it from a text that has it, "
                "or use ByteTokenizer, which has no unknown characters"
            ) from None

    def decode(self, token_ids: Sequence[int]) -> str:
        r"""Turn token ids back into a text.

        Args:
            token_ids: ids from 0 to vocab_size - 1.
        Returns: the text.
        Raises:
            ValueError: if an id is out of range.
        Lesson: 01.
        """
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token_ids[{i}] is {token_id}; ids go from 0 to {self.vocab_size - 1}")
        return "".join(self.characters[token_id] for token_id in token_ids)

    def to_dict(self) -> dict[str, Any]:
        r"""Describe this tokenizer by plain values, for a checkpoint."""
        return {"kind": "characters", "characters": self.characters}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CharTokenizer":
        r"""Build the tokenizer that `to_dict` described."""
        return cls(values["characters"])
