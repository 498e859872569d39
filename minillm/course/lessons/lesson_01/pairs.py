r"""Exercise: count pairs of neighbours."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

IDS = Tolerance(0.0, 0.0, "token ids and counts are whole numbers")


def pair_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    a, b, c, d = draw.sizes(4, 65, 90)
    low, high = sorted((a, b))
    yield ([high, low, high, low, low],), {}
    yield ([a, a, a],), {}
    yield ([c, a, a, a, a, d],), {}
    yield ([],), {}
    yield ([c],), {}
    yield (draw.integers(0, 3, draw.size(15, 30)).tolist(),), {}
    yield (draw.integers(97, 99, draw.size(6, 12)).tolist(),), {}


def pairs_by_slicing(token_ids: Sequence[int]) -> dict[Any, int]:
    pieces = [tuple(token_ids[i : i + 2]) for i in range(len(token_ids))]
    whole = [piece for piece in pieces if len(piece) == 2]
    return {piece: whole.count(piece) for piece in whole}


def pairs_without_overlap(token_ids: Sequence[int]) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    i = 0
    while i + 1 < len(token_ids):
        pair = (token_ids[i], token_ids[i + 1])
        counts[pair] = counts.get(pair, 0) + 1
        in_a_run = i + 2 < len(token_ids) and pair[0] == pair[1] == token_ids[i + 2]
        i += 2 if in_a_run else 1
    return counts


def pairs_in_either_order(token_ids: Sequence[int]) -> dict[Any, int]:
    return Counter(tuple(sorted(pair)) for pair in zip(token_ids, token_ids[1:], strict=False))


COUNT_PAIRS = Exercise(
    id="text.bpe.count_pairs",
    lesson="01",
    title="Count pairs",
    task="The first half of BPE: how often does each pair of neighbours occur in a list of token ids? Give a dict "
    "whose keys are tuples, `{(left, right): count}`. Neighbours overlap: `[7, 7, 7]` has the pair `(7, 7)` twice.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=21,
    hints=(
        "Write down the pairs of `[5, 6, 5, 6]` by hand. How many pairs does a list of n ids have?",
        "`zip` walks through two lists side by side. Which two lists, so that each id meets its right neighbour?",
        "A dict counts with `counts.get(key, 0)`; `collections.Counter` counts by itself.",
    ),
    cases=pair_cases,
    oracle=pairs_by_slicing,
    other_style=lambda token_ids: Counter(zip(token_ids[:-1], token_ids[1:], strict=True)),
    tolerance=IDS,
    mistakes=(
        Mistake(
            "runs without overlap",
            pairs_without_overlap,
            "In a run of equal ids you count only pairs that do not overlap. Counting looks at every place: [7, 7, 7] "
            "has (7, 7) at place 0 and at place 1. (Merging will not overlap; that is the next exercise.)",
        ),
        Mistake(
            "two by two",
            lambda token_ids: Counter(zip(token_ids[::2], token_ids[1::2], strict=False)),
            "You cut the list into pairs, so each id belongs to one pair only. Each id is the right neighbour of one "
            "and the left neighbour of another: n ids have n - 1 pairs.",
        ),
        Mistake(
            "order ignored",
            pairs_in_either_order,
            "You count (a, b) and (b, a) as one. They are different pairs: 'th' and 'ht' would become the same token.",
        ),
        Mistake(
            "last pair missed",
            lambda token_ids: Counter(zip(token_ids[:-2], token_ids[1:-1], strict=True)),
            "The last pair is missing: n ids have n - 1 pairs, and your loop ends one too early.",
        ),
        Mistake(
            "closed to a ring",
            lambda token_ids: Counter((token_ids[i - 1], token_ids[i]) for i in range(len(token_ids))),
            "You also pair the last id with the first. A text is no ring: in Python the index -1 is the last element, "
            "so a loop from 0 that looks one to the left begins with it.",
        ),
        Mistake(
            "each pair once",
            lambda token_ids: dict.fromkeys(zip(token_ids, token_ids[1:], strict=False), 1),
            "All your counts are 1: a pair that comes up again overwrites its count. Add 1 to what is there.",
        ),
        Mistake(
            "single ids",
            lambda token_ids: Counter(token_ids),
            "You count single ids. What BPE looks for is the most frequent pair of neighbours: keys are tuples of two.",
        ),
    ),
)
