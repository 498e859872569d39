r"""Exercise: candidates by bands."""

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_01.pairs import IDS


def band_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    a, b, c, d, e, f = draw.sizes(6, 10, 40)
    crossed = [[a, b, c, d], [c, d, a, b], [e, f, c, d]]  # rows 0 and 1 hold equal bands, but not in the same place
    yield (torch.tensor(crossed), 2), {}
    yield (torch.tensor([[a, b, c, d], [a, e, f, d], [a, b, c, d]]), 2), {}
    yield (torch.tensor([[a, b, c, d, e, f], [a, b, c, f, e, d], [f, b, c, d, e, a]]), 3), {}
    yield (torch.tensor([[a, b, c, d, e, f], [a, b, c, f, e, d], [f, b, c, d, e, a]]), 2), {}
    for n, n_bands, rows in ((6, 4, 2), (9, 2, 3), (12, 3, 2)):
        yield (draw.integers(0, 2, n, n_bands * rows), n_bands), {}
    yield (draw.integers(0, 1, 3, 8), 3), {}  # three bands of eight numbers do not come out even


def every_pair_every_band(signatures: Tensor, n_bands: int) -> set[tuple[int, int]]:
    n, k = signatures.shape
    if k % n_bands:
        raise ValueError("n_bands")
    bands = signatures.reshape(n, n_bands, k // n_bands)
    return {(i, j) for i, j in combinations(range(n), 2) if bool((bands[i] == bands[j]).all(-1).any())}


def all_at_once(signatures: Tensor, n_bands: int) -> set[tuple[int, int]]:
    if signatures.shape[1] % n_bands:
        raise ValueError(f"n_bands={n_bands} must divide {signatures.shape[1]}")
    bands = signatures.unflatten(1, (n_bands, -1))
    meet = (bands[:, None] == bands[None]).all(-1).any(-1)
    return {(i, j) for i, j in meet.triu(1).nonzero().tolist()}


def pairs_that(meet: Callable[[Tensor, Tensor, int], bool]) -> Callable[..., Any]:
    r"""Compare every pair by `meet(one signature, the other, n_bands)`."""

    def candidates(signatures: Tensor, n_bands: int) -> set[tuple[int, int]]:
        if signatures.shape[1] % n_bands:
            raise ValueError("n_bands must divide the length of a signature")
        n = len(signatures)
        return {(i, j) for i, j in combinations(range(n), 2) if meet(signatures[i], signatures[j], n_bands)}

    return candidates


def equal_bands(a: Tensor, b: Tensor, n_bands: int) -> list[bool]:
    return [torch.equal(x, y) for x, y in zip(a.chunk(n_bands), b.chunk(n_bands), strict=True)]


def both_orders(signatures: Tensor, n_bands: int) -> set[tuple[int, int]]:
    right = every_pair_every_band(signatures, n_bands)
    return right | {(j, i) for i, j in right}


def itself_too(signatures: Tensor, n_bands: int) -> set[tuple[int, int]]:
    return every_pair_every_band(signatures, n_bands) | {(i, i) for i in range(len(signatures))}


def uneven_bands(signatures: Tensor, n_bands: int) -> set[tuple[int, int]]:
    pairs = combinations(range(len(signatures)), 2)
    return {(i, j) for i, j in pairs if any(equal_bands(signatures[i], signatures[j], n_bands))}


LSH_CANDIDATES = Exercise(
    id="text.lsh.lsh_candidates",
    lesson="01",
    title="Meet in a band",
    task="Cut each signature into `n_bands` bands of neighbours, and find the pairs of texts that agree in at least "
    "one whole band. Give a set of tuples `(i, j)` with i < j. If the bands do not come out even, refuse with a "
    "ValueError. Do it with buckets, so that a million texts would not need a million times a million comparisons.",
    difficulty=2,
    minutes=18,
    points=4,
    seed=26,
    hints=(
        "One band alone: a dict from the band's numbers (a tuple can be a key, a tensor cannot) to the texts that have "
        "them. Who shares a key, meets.",
        "Each band needs buckets of its own. What would go wrong with one dict for all bands?",
        "`signatures.chunk(n_bands, dim=1)` gives the bands, `itertools.combinations(bucket, 2)` the pairs of a "
        "bucket.",
    ),
    cases=band_cases,
    oracle=every_pair_every_band,
    other_style=all_at_once,
    tolerance=IDS,
    mistakes=(
        Mistake(
            "one set of buckets for all bands",
            pairs_that(lambda a, b, n: any(torch.equal(x, y) for x, y in product(a.chunk(n), b.chunk(n)))),
            "You compare bands at different places. Number i of a signature belongs to shuffle i; that it equals "
            "number j of another signature means nothing. Start new buckets for each band.",
        ),
        Mistake(
            "one equal number is enough",
            pairs_that(lambda a, b, n: bool((a == b).any())),
            "One equal number makes your pairs meet. A whole band must agree: that is what keeps strangers apart, who "
            "share a number now and then.",
        ),
        Mistake(
            "all bands must agree",
            pairs_that(lambda a, b, n: torch.equal(a, b)),
            "Your pairs agree in every band: these are exact copies. One band is enough.",
        ),
        Mistake(
            "rows and bands swapped",
            pairs_that(lambda a, b, n: any(equal_bands(a, b, len(a) // n))),
            "You take n_bands for the number of rows in a band. A band has k / n_bands numbers.",
        ),
        Mistake(
            "both orders",
            both_orders,
            "Each pair comes twice, as (i, j) and as (j, i). Give it once, the smaller place first.",
        ),
        Mistake(
            "pairs with itself",
            itself_too,
            "A text meets itself in your result. It is its own duplicate, and with it you would delete every text.",
        ),
        Mistake(
            "first band only",
            pairs_that(lambda a, b, n: equal_bands(a, b, n)[0]),
            "You look at one band only. The pairs of all bands together are asked for: each band is another chance to "
            "meet.",
        ),
        Mistake(
            "uneven bands accepted",
            uneven_bands,
            "Where n_bands does not divide the length, the last band is shorter than the others and meets more often. "
            "Refuse it with a ValueError.",
        ),
    ),
)
