r"""The byte-level BPE of real models: tokens, merges and special tokens as their files give them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minillm.text import byte_level_files
from minillm.text.byte_alphabet import BYTE_ALPHABET, read_spelling
from minillm.text.byte_tokenizer import utf8_bytes
from minillm.text.pre_tokenize import PRE_TOKENIZERS, pre_tokenize
from minillm.text.rank_merging import merge_by_rank

_NAMED = ("bos_id", "eos_id", "pad_id", "unk_id")


class ByteLevelBPE:
    r"""Byte-level BPE with the vocabulary of a file, as GPT-2, SmolLM and many others use it.

    As with `BPETokenizer`, tokens are bytes and what merges made of them. In the files of real models
    ids follow no rule, so merges are given by the spelling of their tokens; some tokens are no text at all, such as the
    begin of a message; and a byte that never occurred in training may have no token (SmolLM2: six control characters,
    and bytes that hardly or never occur in UTF-8). Such a byte becomes `unk_id`, or nothing where there is none.

    `bos_id`, `eos_id`, `pad_id` and `unk_id` are there if they were given.

    Args:
        tokens: the spelling of each id: characters of the byte alphabet; for special and whole tokens, their text.
        merges: pairs of spellings, in the order learned.
        pre_tokenizer: "gpt-2" or "smollm", see `pre_tokenize`.
        special_ids: tokens that steer the model and are no text, such as <|im_start|>.
        whole_ids: tokens of text that are taken out before all else, in one piece.
        bos_id: the token at the begin of a text.
        eos_id: the token that ends what the model writes.
        pad_id: what fills rows.
        unk_id: what stands for a byte without a token.
        adds_bos: whether the model expects `bos_id` before a text.
        chat_template: how the file writes a talk, a Jinja template.
    Raises:
        ValueError: if a spelling is wrong or comes twice, an id is out of range, or a merge joins or makes what is no
            token.
    Source: Radford et al. 2019, section 2.2 (GPT-2).
    Lesson: 16.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Iterable[Sequence[str]],
        *,
        pre_tokenizer: str,
        special_ids: Iterable[int] = (),
        whole_ids: Iterable[int] = (),
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        unk_id: int | None = None,
        adds_bos: bool = False,
        chat_template: str | None = None,
    ) -> None:
        self.tokens, self.merges = list(tokens), [(left, right) for left, right in merges]
        self.pre_tokenizer, self.chat_template, self.adds_bos = pre_tokenizer, chat_template, adds_bos
        self.special_ids, self.whole_ids = sorted({*special_ids}), sorted({*whole_ids})
        for name, token_id in zip(_NAMED, (bos_id, eos_id, pad_id, unk_id), strict=True):
            if token_id is not None:
                setattr(self, name, token_id)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._require_sound()
        verbatim = {*self.special_ids, *self.whole_ids}
        self.token_bytes = [utf8_bytes(token) if i in verbatim else read_spelling(token)
                            for i, token in enumerate(self.tokens)]
        plain_ids = {token: i for token, i in self._ids.items() if i not in verbatim}
        self._byte_ids = [plain_ids.get(character, unk_id) for character in BYTE_ALPHABET]
        self._ranks = {(self._ids[left], self._ids[right]): (rank, self._ids[left + right])
                       for rank, (left, right) in enumerate(self.merges)}
        self._whole_pattern = _any_of(self.tokens[i] for i in self.whole_ids)
        self._special_pattern = _any_of(self.tokens[i] for i in verbatim)
        self._chunk_ids: dict[str, list[int]] = {}

    def _require_sound(self) -> None:
        if self.pre_tokenizer not in PRE_TOKENIZERS:
            raise ValueError(f"pre_tokenizer={self.pre_tokenizer!r}: use one of {sorted(PRE_TOKENIZERS)}")
        if len(self._ids) < len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self._ids[token] != i)
            raise ValueError(f"tokens hold {twice!r} twice; give each once")
        named = {name: [getattr(self, name)] for name in _NAMED if hasattr(self, name)}
        for name, ids in {"special_ids": self.special_ids, "whole_ids": self.whole_ids, **named}.items():
            for token_id in ids:
                if not 0 <= token_id < self.vocab_size:
                    raise ValueError(f"{name} holds {token_id}; there are {self.vocab_size} tokens, and ids go from 0")
                if not self.tokens[token_id]:
                    raise ValueError(f"{name} holds {token_id}, a token without text; give it one")
        for rank, (left, right) in enumerate(self.merges):
            for token in (left, right, left + right):
                if token not in self._ids:
                    raise ValueError(f"merges[{rank}] is ({left!r}, {right!r}), but {token!r} is not among the tokens")

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "ByteLevelBPE":
        r"""The tokenizer inside a GGUF file.

        Args:
            metadata: the file's keys and values, such as "tokenizer.ggml.tokens".
        Returns: the tokenizer.
        Raises:
            ValueError: if there is none, or it is of another kind.
        Lesson: 16.
        """
        return cls(**byte_level_files.read_gguf_tokenizer(metadata))

    @classmethod
    def from_tokenizer_json(
        cls, values: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> "ByteLevelBPE":
        r"""The tokenizer of Hugging Face's files.

        Args:
            values: what tokenizer.json holds.
            settings: what tokenizer_config.json holds: names of special tokens, chat template. None = nothing of it.
        Returns: the tokenizer.
        Raises:
            ValueError: if it is of another kind; the message names the part.
        Lesson: 16.
        """
        return cls(**byte_level_files.read_json_tokenizer(values, settings or {}))

    @property
    def vocab_size(self) -> int:
        r"""The number of ids, special tokens included."""
        return len(self.tokens)

    def encode(self, text: str, special: bool = True) -> list[int]:
        r"""Turn a text into token ids; nothing is added to it.

        Args:
            text: any Unicode text.
            special: whether the text of a special token, such as "<|im_end|>", becomes that token. False = it is
                text like any other: right for what strangers wrote.
        Returns: ids from 0 to vocab_size - 1.
        Raises:
            ValueError: if the text holds half of a surrogate pair.
        Lesson: 16.
        """
        utf8_bytes(text)
        pattern = self._special_pattern if special else self._whole_pattern
        token_ids: list[int] = []
        for i, piece in enumerate(pattern.split(text) if pattern else [text]):
            if i % 2:  # between the pieces of text stand the tokens that cut them
                token_ids.append(self._ids[piece])
                continue
            for chunk in pre_tokenize(piece, self.pre_tokenizer):
                token_ids += self._encode_chunk(chunk)
        return token_ids

    def _encode_chunk(self, chunk: str) -> list[int]:
        if chunk not in self._chunk_ids:
            byte_ids = (self._byte_ids[byte] for byte in chunk.encode())
            merged = merge_by_rank([token_id for token_id in byte_ids if token_id is not None], self._ranks)
            if len(chunk) > 64:  # hardly comes again
                return merged
            if len(self._chunk_ids) >= 2**16:  # a text without end must not fill the memory
                self._chunk_ids.clear()
            self._chunk_ids[chunk] = merged
        return self._chunk_ids[chunk]

    def decode(self, token_ids: Sequence[int], special: bool = True) -> str:
        r"""Turn token ids back into a text.

        Args:
            token_ids: ids from 0 to vocab_size - 1.
            special: whether special tokens are written; False = they are left out.
        Returns: the text; U+FFFD where a model wrote bytes that are no UTF-8.
        Raises:
            ValueError: if an id is out of range.
        Lesson: 16.
        """
        left_out = frozenset() if special else frozenset(self.special_ids)
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token_ids[{i}] is {token_id}; ids go from 0 to {self.vocab_size - 1}")
        shown = (self.token_bytes[token_id] for token_id in token_ids if token_id not in left_out)
        return b"".join(shown).decode("utf-8", errors="replace")

    def to_dict(self) -> dict[str, Any]:
        r"""Describe this tokenizer by plain values, for a checkpoint."""
        return {
            "kind": "byte_level", "tokens": self.tokens, "merges": [list(pair) for pair in self.merges],
            "pre_tokenizer": self.pre_tokenizer, "special_ids": self.special_ids, "whole_ids": self.whole_ids,
            "adds_bos": self.adds_bos, "chat_template": self.chat_template,
            **{name: getattr(self, name) for name in _NAMED if hasattr(self, name)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ByteLevelBPE":
        r"""Build the tokenizer that `to_dict` described."""
        return cls(**{name: value for name, value in values.items() if name != "kind"})


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    r"""A pattern that cuts out any of the texts, of two that fit the longer one."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
