r"""Tokenizers from checkpoints: which class each description belongs to."""

from collections.abc import Mapping
from typing import Any

from minillm.text.bpe import BPETokenizer
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer
from minillm.text.words import WordTokenizer

Tokenizer = CharTokenizer | ByteTokenizer | WordTokenizer | BPETokenizer | ByteLevelBPE
KINDS = {"characters": CharTokenizer, "bytes": ByteTokenizer, "words": WordTokenizer, "bpe": BPETokenizer,
         "byte_level": ByteLevelBPE}


def from_dict(values: Mapping[str, Any]) -> Tokenizer:
    r"""Build the tokenizer that some tokenizer's `to_dict` described.

    Args:
        values: plain values, such as {"kind": "bytes"}.
    Returns: a tokenizer with the same vocabulary.
    Raises:
        ValueError: if "kind" is missing or unknown.
    Lesson: 01.
    """
    kind = values.get("kind")
    if kind not in KINDS:
        raise ValueError(f"values['kind'] is {kind!r}; a tokenizer is one of {sorted(KINDS)}")
    return KINDS[kind].from_dict(values)
