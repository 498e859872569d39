r"""Byte pair encoding: join the most frequent pair of neighbours into a new token, again and again."""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from minillm.text.byte_tokenizer import utf8_bytes

Pair = tuple[int, int]

# Chunks that no token may cross: letters, digits or other marks, each with the space before it; white space. What an
# apostrophe cuts off in English ('s, 'll ...) is a chunk too. Every character belongs to exactly one chunk, and none is
# longer than 65 characters: without a limit, a text without spaces would be one chunk, which takes for ever to merge.
_CHUNK = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]{1,64}| ?\d{1,64}| ?(?:[^\w\s]|_){1,64}|\s{1,64}(?!\S)|\s{1,64}")


def split_chunks(text: str) -> list[str]:
    r"""Cut a text into the chunks within which pairs are merged.

    Args:
        text: any text.
    Returns: the chunks; joined, they are the text again.
    Source: Radford et al. 2019, section 2.2 (GPT-2): merges that cross kinds of characters waste tokens. Its pattern,
        written for Python's own `re`, and with a limit of length.
    Lesson: 01.
    """
    return _CHUNK.findall(text)


def count_pairs(token_ids: Sequence[int]) -> dict[Pair, int]:
    r"""Count how often each pair of neighbours occurs.

    Args:
        token_ids: (n,) ids.
    Returns: a dict from pair to count; pairs overlap, so [7, 7, 7] has the pair (7, 7) twice.
    Source: Gage 1994; Sennrich et al. 2016, algorithm 1 (`get_stats`).
    Lesson: 01.
    """
    counts: dict[Pair, int] = {}
    for pair in zip(token_ids, token_ids[1:], strict=False):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def merge_pair(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    r"""Replace every occurrence of a pair by one new token.

    Occurrences are taken from left to right and do not overlap: merging (7, 7) in [7, 7, 7] leaves the last 7 alone.

    Args:
        token_ids: (n,) ids; not changed.
        pair: the two neighbours to join.
        new_id: the id that stands for the pair.
    Returns: a new list.
    Source: Sennrich et al. 2016, algorithm 1 (`merge_vocab`).
    Lesson: 01.
    """
    merged, i = [], 0
    while i < len(token_ids):
        if i + 1 < len(token_ids) and (token_ids[i], token_ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(token_ids[i])
            i += 1
    return merged


def bpe_encode(token_ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
    r"""Apply trained merges to one chunk, always the one that was learned first among those that fit.

    Args:
        token_ids: (n,) ids, at first the bytes of the chunk; not changed.
        merges: from pair to new id; of two merges the one with the smaller new id was learned first.
    Returns: a new list, in which no merge fits any more.
    Source: Sennrich et al. 2016, section 3.2.
    Lesson: 01.
    """
    token_ids = list(token_ids)
    while True:
        fitting = [pair for pair in count_pairs(token_ids) if pair in merges]
        if not fitting:
            return token_ids
        first = min(fitting, key=lambda pair: merges[pair])
        token_ids = merge_pair(token_ids, first, merges[first])


def train_bpe_by_recounting(text: str, n_merges: int, min_count: int = 2) -> dict[Pair, int]:
    r"""Learn merges in the plainest way: count all pairs afresh for every merge.

    The definition that `train_bpe` is tested against. Its time grows with the length of the text times the merges.

    Args:
        text: the text to learn from.
        n_merges: how many merges to learn at most.
        min_count: a pair that occurs less often is not merged.
    Returns: from pair to new id, in the order learned; new ids start at 256, after the bytes.
    Source: Sennrich et al. 2016, algorithm 1, on bytes. Among equally frequent pairs the smaller pair of ids is taken.
    Lesson: 01.
    """
    chunks = [list(utf8_bytes(chunk)) for chunk in split_chunks(text)]
    merges: dict[Pair, int] = {}
    for new_id in range(256, 256 + n_merges):
        counts: Counter[Pair] = Counter()
        for chunk in chunks:
            counts.update(count_pairs(chunk))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_count:
            break
        merges[best] = new_id
        chunks = [merge_pair(chunk, best, new_id) for chunk in chunks]
    return merges


def _merge_and_note(token_ids: list[int], pair: Pair, new_id: int) -> tuple[list[int], dict[Pair, int]]:
    """Do what `merge_pair` does, and note by how much the count of each pair changes: only neighbours are touched."""
    left, right = pair
    merged: list[int] = []
    changes: defaultdict[Pair, int] = defaultdict(int)
    i, last = 0, len(token_ids) - 1
    while i <= last:
        if token_ids[i] != left or i == last or token_ids[i + 1] != right:
            merged.append(token_ids[i])
            i += 1
            continue
        changes[pair] -= 1
        if merged:
            changes[merged[-1], left] -= 1
            changes[merged[-1], new_id] += 1
        if i + 1 < last:
            changes[right, token_ids[i + 2]] -= 1
            changes[new_id, token_ids[i + 2]] += 1
        merged.append(new_id)
        i += 2
    return merged, changes


def train_bpe(text: str, n_merges: int, min_count: int = 2) -> dict[Pair, int]:
    r"""Learn merges; the same as `train_bpe_by_recounting`, but only what a merge changes is counted again.

    Equal chunks are kept once, with their count. Each pair remembers in which chunks it may occur, and a heap holds the
    pairs by count; an entry whose count is out of date is put back with the right one when it comes up.

    Args:
        text: the text to learn from.
        n_merges: how many merges to learn at most.
        min_count: a pair that occurs less often is not merged.
    Returns: from pair to new id, in the order learned; new ids start at 256, after the bytes.
    Raises:
        ValueError: if n_merges is negative or min_count is less than 1.
    Source: Sennrich et al. 2016, algorithm 1, on bytes. Among equally frequent pairs the smaller pair of ids is taken.
    Lesson: 01.
    """
    if n_merges < 0 or min_count < 1:
        raise ValueError(f"n_merges={n_merges} must not be negative and min_count={min_count} must be at least 1")
    chunk_counts = Counter(split_chunks(text))
    chunks = [list(utf8_bytes(chunk)) for chunk in chunk_counts]
    repeats = list(chunk_counts.values())
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for i, chunk in enumerate(chunks):
        for pair, count in count_pairs(chunk).items():
            counts[pair] += count * repeats[i]
            where[pair].add(i)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    merges: dict[Pair, int] = {}
    while heap and len(merges) < n_merges:
        negative_count, best = heapq.heappop(heap)
        if -negative_count != counts[best]:
            if counts[best] > 0:
                heapq.heappush(heap, (-counts[best], best))
            continue
        if counts[best] < min_count:
            break
        new_id = merges[best] = 256 + len(merges)
        grown: set[Pair] = set()
        for i in where.pop(best):
            chunks[i], changes = _merge_and_note(chunks[i], best, new_id)
            for pair, change in changes.items():
                counts[pair] += change * repeats[i]
                if change > 0:
                    where[pair].add(i)
                    grown.add(pair)
        for pair in grown:
            heapq.heappush(heap, (-counts[pair], pair))
    return merges


class BPETokenizer:
    r"""Tokens are bytes, and what the merges made of them.

    Ids 0 to 255 are the bytes; each merge adds one. Exact on any Unicode text, since every text is bytes first.

    Args:
        merges: from pair to new id, in the order learned, as `train_bpe` gives them.
    Raises:
        ValueError: if the new ids do not count up from 256, or a pair uses an id that comes later.
    Lesson: 01.
    """

    def __init__(self, merges: Mapping[Pair, int]) -> None:
        self.merges = dict(merges)
        self.token_bytes = [bytes([i]) for i in range(256)]
        for (left, right), new_id in self.merges.items():
            if new_id != len(self.token_bytes) or not (0 <= left < new_id and 0 <= right < new_id):
                raise ValueError(
                    f"merges must give new ids 256, 257, ... in order and join only earlier ids, but they hold "
                    f"({left}, {right}) -> {new_id} as number {len(self.token_bytes) - 256}; use train_bpe's result"
                )
            self.token_bytes.append(self.token_bytes[left] + self.token_bytes[right])
        self._chunk_ids: dict[str, list[int]] = {}

    @classmethod
    def from_text(cls, text: str, vocab_size: int) -> "BPETokenizer":
        r"""Train a tokenizer on a text.

        Args:
            text: the text to learn from.
            vocab_size: 256 bytes and the merges; a short text may give fewer.
        Returns: the tokenizer.
        Raises:
            ValueError: if vocab_size is less than 256.
        Lesson: 01.
        """
        if vocab_size < 256:
            raise ValueError(f"vocab_size={vocab_size} must be at least 256, since the bytes are tokens too")
        return cls(train_bpe(text, vocab_size - 256))

    @property
    def vocab_size(self) -> int:
        r"""The number of ids: 256 and one for each merge."""
        return len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        r"""Turn a text into token ids.

        Args:
            text: any Unicode text.
        Returns: ids from 0 to vocab_size - 1.
        Raises:
            ValueError: if the text holds half of a surrogate pair.
        Lesson: 01.
        """
        token_ids: list[int] = []
        for chunk in split_chunks(text):
            if chunk not in self._chunk_ids:
                if len(self._chunk_ids) >= 2**16:  # a text without end must not fill the memory
                    self._chunk_ids.clear()
                self._chunk_ids[chunk] = bpe_encode(utf8_bytes(chunk), self.merges)
            token_ids += self._chunk_ids[chunk]
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        r"""Turn token ids back into a text.

        Args:
            token_ids: ids from 0 to vocab_size - 1.
        Returns: the text; U+FFFD where a model wrote bytes that are no UTF-8.
        Raises:
            ValueError: if an id is out of range.
        Lesson: 01.
        """
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token_ids[{i}] is {token_id}; ids go from 0 to {self.vocab_size - 1}")
        return b"".join(self.token_bytes[token_id] for token_id in token_ids).decode("utf-8", errors="replace")

    def to_dict(self) -> dict[str, Any]:
        r"""Describe this tokenizer by plain values, for a checkpoint."""
        return {"kind": "bpe", "merges": [list(pair) for pair in self.merges]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BPETokenizer":
        r"""Build the tokenizer that `to_dict` described."""
        return cls({(left, right): 256 + i for i, (left, right) in enumerate(values["merges"])})
