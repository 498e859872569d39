r"""Find the bug: a block that is known by its face."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Names = Callable[[Sequence[int], int], list[Any]]
_numbers = count()


def who_shares(function: Names, texts: list[list[int]], block_len: int) -> tuple[list[int], Tensor]:
    r"""How many names each text gets, and which of all the names are the same."""
    named = [function(list(text), block_len) for text in texts]
    flat = [name for names in named for name in names]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(flat))}  # names are keys of a dict
    marks = torch.tensor([numbers[name] for name in flat], dtype=torch.int64)
    return [len(names) for names in named], marks[:, None] == marks[None]


def beginnings_compared(texts: list[list[int]], block_len: int) -> tuple[list[int], Tensor]:
    r"""The same from the texts themselves: blocks may be shared where the texts agree up to their ends."""
    ends = [(text, end) for text in texts for end in range(block_len, len(text) + 1, block_len)]
    same = [[a[:i] == b[:j] for b, j in ends] for a, i in ends]
    counts = [len(text) // block_len for text in texts]
    return counts, torch.tensor(same, dtype=torch.bool).view(len(ends), len(ends))


def digest_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for block_len in (2, draw.size(3, 5)):
        first, second, third, other = draw.integers(100, 999, 4, block_len).tolist()
        yield ([first + second + third, other + second + third, first + second + third[:-1]], block_len), {}
        yield ([first + first, second + first, first + second[:1]], block_len), {}
        yield ([first + second, first[::-1] + second, first + second[::-1] + third], block_len), {}
        digit, tail = draw.size(1, 9), draw.integers(100, 999, block_len - 2).tolist()
        yield ([[digit, 10 * digit + 3, *tail], [11 * digit, 3, *tail], [digit] * (block_len - 1)], block_len), {}
        base = draw.integers(0, 1, 3 * block_len).tolist()
        yield ([base, base[: draw.size(1, 3 * block_len)], draw.integers(0, 1, 3 * block_len + 1).tolist()],
               block_len), {}


def whole_beginnings(token_ids: Sequence[int], block_len: int) -> list[tuple[int, ...]]:
    r"""A name need not be a hash: the beginning itself will do, only it is long."""
    return [tuple(token_ids[:end]) for end in range(block_len, len(token_ids) + 1, block_len)]


def named_by(
    face: Callable[[Sequence[int], int, int], Any],
    ends: Callable[[int, int], range] = lambda n, block_len: range(block_len, n + 1, block_len),
) -> Names:
    r"""Names that are hashes of `face(token_ids, start, end)` for the block from start to end."""

    def digests(token_ids: Sequence[int], block_len: int) -> list[bytes]:
        blocks = [(end - block_len, end) for end in ends(len(token_ids), block_len)]
        return [hashlib.sha256(repr(face(token_ids, *block)).encode()).digest() for block in blocks]

    return digests


BLOCK_DIGESTS = Exercise(
    id="inference.caches.prefix.block_digests",
    lesson="10",
    title="Find the bug",
    task="Each **full** block of a text gets a name, a hash; blocks with the same name are taken for the same, and "
    "their keys and values are used again. This is how the names were made:\n\n```python\n"
    "def block_digests(token_ids, block_len):\n"
    "    digests = []\n"
    "    for start in range(0, len(token_ids) - block_len + 1, block_len):\n"
    "        block = token_ids[start : start + block_len]\n"
    "        digests.append(hashlib.sha256(repr(list(block)).encode()).digest())\n"
    "    return digests\n"
    "```\n\n"
    "The cell above has shown what comes of it. Say in a sentence on what the keys and values of a block depend, then "
    "mend the names: two blocks may have the same name only if they hold the same keys and values, and then they must. "
    "Anything that can be a key of a dictionary will do as a name; `import hashlib` stands at your disposal.",
    difficulty=2,
    minutes=10,
    points=2,
    seed=110,
    hints=(
        "The keys of the second layer are made from what the first layer has read. What could a token of block 3 read?",
        "So a name has to tell apart two texts that differ anywhere before the end of the block, even in their first "
        "token.",
        "You need not hash the whole beginning for each block. The name of the block before already stands for all "
        "that came before: let it be a part of what you hash.",
    ),
    cases=digest_cases,
    oracle=beginnings_compared,
    probe=who_shares,
    other_style=whole_beginnings,
    tolerance=Tolerance(0.0, 0.0, "counts, and True or False"),
    mistakes=(
        Mistake(
            "its face alone",
            named_by(lambda text, start, end: list(text[start:end])),
            "The bug is still there: a block is known by its own tokens, whatever stands before it. Its keys and "
            "values, from the second layer on, depend on everything before it.",
        ),
        Mistake(
            "face and place",
            named_by(lambda text, start, end: (start, list(text[start:end]))),
            "You tell blocks apart by their tokens and by their place in the text. That mends the positions, but the "
            "same tokens at the same place still have other keys and values after another beginning.",
        ),
        Mistake(
            "the block before only",
            named_by(lambda text, start, end: (start, list(text[max(0, 2 * start - end) : end]))),
            "Your names look back one block and no further. Two texts that differ in their first block and agree in "
            "the next two would share the third.",
        ),
        Mistake(
            "order ignored",
            named_by(lambda text, start, end: (list(text[:start]), sorted(text[start:end]))),
            "Blocks with the same tokens in another order get the same name. Their keys differ: order is part of the "
            "text.",
        ),
        Mistake(
            "digits run together",
            named_by(lambda text, start, end: (end, "".join(map(str, text[:end])))),
            "You join the tokens' digits without anything between them, so that 1, 13 and 11, 3 become the same "
            "text. Put a mark between them, or hash the list's repr.",
        ),
        Mistake(
            "a block that is not full",
            named_by(lambda text, start, end: list(text[: max(end, 0)]),
                     lambda n, block_len: range(block_len, n + block_len, block_len)),
            "You name the last block even where it is not full. It will still be written to, so nobody may share it: "
            "full blocks only.",
        ),
        Mistake(
            "the last full block left out",
            named_by(lambda text, start, end: list(text[:end]),
                     lambda n, block_len: range(block_len, n, block_len)),
            "Where the text ends with a full block, that block gets no name. The last start is len(token_ids) - "
            "block_len, and range leaves its end out: add 1.",
        ),
        Mistake(
            "a new name each time",
            named_by(lambda text, start, end: next(_numbers)),
            "The same text gets other names when it comes again, so nothing is ever found. A name must depend on the "
            "tokens and on nothing else.",
        ),
    ),
)
