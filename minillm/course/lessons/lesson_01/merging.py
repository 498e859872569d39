r"""Exercise: replace a pair by a new token."""

from collections.abc import Iterator, Sequence
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_01.pairs import IDS

Pair = tuple[int, int]


def id_merging_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    a, b, c = draw.sizes(3, 65, 90)
    new_id = draw.size(256, 300)
    yield ([a, b, c, a, b], (a, b), new_id), {}
    yield ([a, a, a], (a, a), new_id), {}
    yield ([b, a, a, a, a, a, c], (a, a), new_id), {}
    yield ([c, b, a, a, b, c], (a, b), new_id), {}
    yield ([a, c, b], (a, b), new_id), {}
    yield ([], (a, b), new_id), {}
    yield ([a], (a, a), new_id), {}
    yield (draw.integers(0, 2, draw.size(20, 40)).tolist(), (0, 1), new_id), {}
    yield (draw.integers(0, 1, draw.size(10, 20)).tolist(), (1, 1), new_id), {}


def merge_by_replacing_letters(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    r"""Python's own str.replace, on a text that has one character an id."""
    left, right = map(chr, pair)
    return list(map(ord, "".join(map(chr, token_ids)).replace(left + right, chr(new_id))))


def merge_into_last(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    r"""Another right way: build the result, and look at its end. What has been merged cannot be merged again."""
    merged: list[int] = []
    for token_id in token_ids:
        if merged and (merged[-1], token_id) == pair:
            merged[-1] = new_id
        else:
            merged.append(token_id)
    return merged


def merge_first_only(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    for i in range(len(token_ids) - 1):
        if (token_ids[i], token_ids[i + 1]) == pair:
            return [*token_ids[:i], new_id, *token_ids[i + 2 :]]
    return list(token_ids)


def merge_from_the_right(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    return merge_into_last(token_ids[::-1], pair[::-1], new_id)[::-1]


def merge_either_order(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    merged, i = [], 0
    while i < len(token_ids):
        hit = tuple(token_ids[i : i + 2]) in (pair, pair[::-1])
        merged.append(new_id if hit else token_ids[i])
        i += 2 if hit else 1
    return merged


def merge_and_keep_the_second(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    merged = []
    for i in range(len(token_ids)):
        merged.append(new_id if tuple(token_ids[i : i + 2]) == pair else token_ids[i])
    return merged


def merge_and_lose_the_last(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    merged, i = [], 0
    while i < len(token_ids) - 1:
        hit = (token_ids[i], token_ids[i + 1]) == pair
        merged.append(new_id if hit else token_ids[i])
        i += 2 if hit else 1
    return merged


def merge_in_place(token_ids: list[int], pair: Pair, new_id: int) -> list[int]:
    i = 0
    while i < len(token_ids) - 1:
        if (token_ids[i], token_ids[i + 1]) == pair:
            token_ids[i : i + 2] = [new_id]
        i += 1
    return token_ids


def merge_single_ids(token_ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    return [new_id if token_id in pair else token_id for token_id in token_ids]


MERGE_PAIR = Exercise(
    id="text.bpe.merge_pair",
    lesson="01",
    title="Merge a pair",
    task="The second half of BPE: go through the ids from left to right and put `new_id` wherever `pair` stands. "
    "Occurrences do not overlap: merging `(7, 7)` in `[7, 7, 7]` gives `[new_id, 7]`. Give a new list.",
    difficulty=1,
    minutes=12,
    points=3,
    seed=22,
    hints=(
        "A `for` loop over the ids cannot skip one. A `while` loop with an index of your own can.",
        "At place i: is there a place i + 1, and do the two ids equal the pair? By how much does i grow in each case?",
        "Ask whether there is a right neighbour before you look at it; the last id has none, and must not get lost.",
    ),
    cases=id_merging_cases,
    oracle=merge_by_replacing_letters,
    other_style=merge_into_last,
    tolerance=IDS,
    mistakes=(
        Mistake(
            "never merges",
            lambda token_ids, pair, new_id: list(token_ids),
            "Nothing is merged: the ids come back as they went in. If `pair` is a tuple, it never equals a list: "
            "compare (left, right) with it.",
        ),
        Mistake(
            "first occurrence only",
            merge_first_only,
            "You merge the first occurrence and stop. Every occurrence is to be replaced in one pass.",
        ),
        Mistake(
            "from the right",
            merge_from_the_right,
            "In a run of equal ids you merge from the right: [7, 7, 7] gives [7, new_id]. By convention BPE goes from "
            "the left. Encoder and trainer must agree, or the model sees tokens in places where training had none.",
        ),
        Mistake(
            "either order",
            merge_either_order,
            "You also merge the pair turned round. The new token stands for left, then right; decoding would swap "
            "them.",
        ),
        Mistake(
            "second id kept",
            merge_and_keep_the_second,
            "The new id takes the place of the left one, but the right one is still there: after a merge, step over "
            "two places.",
        ),
        Mistake(
            "last id lost",
            merge_and_lose_the_last,
            "The last id gets lost when it is not part of a pair. The loop stops one place too early: it must look at "
            "the last id too, although that has no right neighbour.",
        ),
        Mistake(
            "input changed",
            merge_in_place,
            "The result is right, but you changed the caller's list. During training the same chunk is looked at again "
            "and again; build a new list instead.",
        ),
        Mistake(
            "single ids merged",
            merge_single_ids,
            "You replace every id that is in the pair, also where its partner does not stand beside it.",
        ),
    ),
)
