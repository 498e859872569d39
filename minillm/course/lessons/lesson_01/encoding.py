r"""Exercise: encode with trained merges."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_01.merging import merge_by_replacing_letters
from minillm.course.lessons.lesson_01.pairs import IDS

Pair = tuple[int, int]


def encode_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    a, b, c, d, e = draw.sizes(5, 97, 122)
    yield ([a, b, c], {(b, c): 256, (a, b): 257}), {}
    yield ([a, b, c], {(b, c): 256, (a, b): 257, (257, c): 258}), {}
    yield ([a, b, c], {(a, b): 256, (b, c): 257}), {}
    yield ([b, c, d, c, d], {(b, c): 256, (c, d): 257}), {}
    yield ([a, b, c, d], {(a, b): 256, (b, c): 257, (a, 257): 258}), {}
    yield ([a, b, c, a, b], {(b, c): 256, (a, b): 257}), {}
    yield ([a, b, c, d, e], {(d, e): 258, (a, b): 256, (c, 258): 259, (b, c): 257}), {}  # out of order
    yield ([a, b, c], {(a, b): 257, (b, c): 256}), {}
    yield ([a, b, c, d, d, e], {(a, b): 256, (c, d): 257, (256, 257): 258, (d, e): 259}), {}
    yield ([a, a, a, a, a], {(a, a): 256, (256, 256): 257}), {}
    yield ([], {(a, b): 256}), {}
    yield ([c, d, e], {(a, b): 256}), {}
    for n_merges in (5, 9):
        yield (draw.integers(0, 3, draw.size(12, 25)).tolist(), random_merges(draw, n_merges)), {}


def random_merges(draw: Draw, n_merges: int) -> dict[Pair, int]:
    r"""Merges of ids 0 to 3 and of earlier merges, in a dict whose order says nothing."""
    ids, learned = list(range(4)), {}
    while len(learned) < n_merges:
        pair = (draw.choice(ids), draw.choice(ids))
        if pair not in learned:
            learned[pair] = 256 + len(learned)
            ids.append(learned[pair])
    order = draw.sizes(n_merges, 0, n_merges - 1)
    pairs = list(learned)
    return {pairs[i]: learned[pairs[i]] for i in order}


def replace_in_order(token_ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
    r"""A right way by letters: every merge once, in the order learned, each over the whole chunk."""
    token_ids = list(token_ids)
    for pair, new_id in sorted(merges.items(), key=lambda item: item[1]):
        token_ids = merge_by_replacing_letters(token_ids, pair, new_id)
    return token_ids


def smallest_new_id_again(token_ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
    r"""Another right way: one occurrence at a time."""
    token_ids = list(token_ids)
    while True:
        options = [
            (merges[pair], i)
            for i, pair in enumerate(zip(token_ids, token_ids[1:], strict=False))
            if pair in merges
        ]  # fmt: skip
        if not options:
            return token_ids
        new_id, i = min(options)
        token_ids[i : i + 2] = [new_id]


def encode_choosing(choose: Any, most: int | None = None) -> Any:
    r"""BPE that takes the fitting pair that `choose(pairs, merges)` names, at most so many times."""

    def encode(token_ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
        token_ids, done = list(token_ids), 0
        while done != most:
            fitting = [pair for pair in zip(token_ids, token_ids[1:], strict=False) if pair in merges]
            if not fitting:
                break
            pair = choose(fitting, merges)
            token_ids = merge_by_replacing_letters(token_ids, pair, merges[pair])
            done += 1
        return token_ids

    return encode


def longest_match(token_ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
    r"""What WordPiece does: from the left, always the longest token of the vocabulary."""
    spelled: dict[int, tuple[int, ...]] = {}
    for (left, right), new_id in sorted(merges.items(), key=lambda item: item[1]):
        spelled[new_id] = spelled.get(left, (left,)) + spelled.get(right, (right,))
    encoded, i = [], 0
    while i < len(token_ids):
        fits = [new_id for new_id, ids in spelled.items() if tuple(token_ids[i : i + len(ids)]) == ids]
        best = max(fits, key=lambda new_id: len(spelled[new_id]), default=None)
        encoded.append(token_ids[i] if best is None else best)
        i += 1 if best is None else len(spelled[best])
    return encoded


def in_dict_order(token_ids: Sequence[int], merges: Mapping[Pair, int]) -> list[int]:
    token_ids = list(token_ids)
    for pair, new_id in merges.items():
        token_ids = merge_by_replacing_letters(token_ids, pair, new_id)
    return token_ids


def encode_in_place(token_ids: list[int], merges: Mapping[Pair, int]) -> list[int]:
    token_ids[:] = replace_in_order(token_ids, merges)
    return token_ids


BPE_ENCODE = Exercise(
    id="text.bpe.bpe_encode",
    lesson="01",
    title="Encode with BPE",
    task="Apply trained merges to the ids of one chunk. As long as a neighbouring pair is among the merges, apply "
    "the one that was *learned first*: the one with the smallest new id. `count_pairs` and `merge_pair` are there to "
    "be used.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=23,
    hints=(
        "Work `[a, b, c]` by hand with the merges (b, c) → 256 and (a, b) → 257. Which one may act?",
        "A loop: which pairs of the list are among the merges? None: done. Otherwise apply one, and look again, "
        "because a merge makes new neighbours.",
        "`min(pairs, key=...)` finds the pair whose new id is smallest.",
        "Begin with a copy, `list(token_ids)`: the chunk is often bytes, and the caller's list is his.",
    ),
    cases=encode_cases,
    oracle=replace_in_order,
    other_style=smallest_new_id_again,
    tolerance=IDS,
    mistakes=(
        Mistake(
            "never merges",
            lambda token_ids, merges: list(token_ids),
            "This BPE never merges: the ids come back as they went in. Every text would be as long as its bytes.",
        ),
        Mistake(
            "one merge only",
            encode_choosing(lambda fitting, merges: min(fitting, key=merges.__getitem__), most=1),
            "You apply one merge and stop. Its result may take part in the next one: go on until none fits.",
        ),
        Mistake(
            "leftmost pair first",
            encode_choosing(lambda fitting, merges: fitting[0]),
            "You take the leftmost pair that fits. It must be the one that was learned first, wherever it stands, "
            "because that is what training did to its text.",
        ),
        Mistake(
            "last learned first",
            encode_choosing(lambda fitting, merges: max(fitting, key=merges.__getitem__)),
            "You begin with the merge that was learned last. The order is that of training: smallest new id first.",
        ),
        Mistake(
            "most frequent pair first",
            encode_choosing(lambda fitting, merges: Counter(fitting).most_common(1)[0][0]),
            "You take the pair that is most frequent in this chunk. That is how *training* chooses. Encoding repeats "
            "the decisions of training, in their order, whatever this chunk looks like.",
        ),
        Mistake(
            "longest match",
            longest_match,
            "You take the longest token that fits, from the left. That is how WordPiece encodes; BPE replays its "
            "merges and may end with shorter tokens.",
        ),
        Mistake(
            "order of the dict",
            in_dict_order,
            "You apply the merges in the order in which the dict holds them. What says which was learned first is the "
            "new id.",
        ),
        Mistake(
            "input changed",
            encode_in_place,
            "The result is right, but the caller's list has been changed. Work on a copy.",
        ),
    ),
)
