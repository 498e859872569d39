r"""Exercise: the MinHash signature."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

LARGE_PRIME = 2**31 - 1
WHOLE = Tolerance(0.0, 0.0, "whole numbers")


def signature_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for n, k, prime in ((4, 2, 31), (7, 5, 101), (3, 6, 1009)):
        hashes = torch.randperm(prime - 1, generator=draw.generator)[:n] + 1
        yield (hashes, draw.integers(2, prime - 1, k), draw.integers(prime // 2, prime - 1, k)), {"prime": prime}
    n, k = draw.sizes(2, 20, 60)
    hashes = draw.integers(1, LARGE_PRIME - 1, n)
    yield (hashes, draw.integers(2, LARGE_PRIME - 1, k), draw.integers(1, LARGE_PRIME - 1, k)), {}
    yield (torch.empty(0, dtype=torch.int64), draw.integers(1, 9, 3), draw.integers(1, 9, 3)), {}


def signature_by_loops(shingle_hashes: Tensor, multipliers: Tensor, offsets: Tensor, prime: int = LARGE_PRIME) -> Any:
    if len(shingle_hashes) == 0:
        raise ValueError("no shingles")
    smallest = []
    for a, b in zip(multipliers.tolist(), offsets.tolist(), strict=True):
        shuffled = [(a * x + b) % prime for x in shingle_hashes.tolist()]
        smallest.append(sorted(shuffled)[0])
    return torch.tensor(smallest)


def refusing_none(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""The function, with an error for an empty set in front."""

    def refusing(hashes: Tensor, multipliers: Tensor, offsets: Tensor, prime: int = LARGE_PRIME) -> Tensor:
        if len(hashes) == 0:
            raise ValueError("shingle_hashes is empty")
        return function(hashes, multipliers[:, None], offsets[:, None], prime)

    return refusing


def one_after_another(hashes: Tensor, multipliers: Tensor, offsets: Tensor, prime: int) -> Tensor:
    smallest = torch.full((len(multipliers),), prime)
    for x in hashes:
        smallest = torch.minimum(smallest, (multipliers[:, 0] * x + offsets[:, 0]) % prime)
    return smallest


def without_refusal(shingle_hashes: Tensor, multipliers: Tensor, offsets: Tensor, prime: int = LARGE_PRIME) -> Tensor:
    return ((torch.outer(multipliers, shingle_hashes) + offsets[:, None]) % prime).min(dim=1).values


MINHASH_SIGNATURE = Exercise(
    id="text.minhash.minhash_signature",
    lesson="01",
    title="A MinHash signature",
    task="Shuffle all hashes k times, and note each time the smallest hash of the set. Shuffle i sends x to "
    "`(multipliers[i] * x + offsets[i]) % prime`; the result is a tensor of k numbers. An empty set has no smallest "
    "hash: refuse it with a ValueError.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=25,
    hints=(
        "Do one shuffle first, with plain numbers for multiplier and offset. What is its smallest value?",
        "All shuffles at once: make the multipliers a column. What shape has column times hashes?",
        "The table has a row a shuffle and a column a shingle. Along which dimension is the minimum taken?",
    ),
    cases=signature_cases,
    oracle=signature_by_loops,
    other_style=refusing_none(one_after_another),
    tolerance=WHOLE,
    mistakes=(
        Mistake(
            "largest",
            refusing_none(lambda x, a, b, p: ((a * x + b) % p).amax(1)),
            "You take the largest. It would work as well, if everybody did it; but signatures are compared with those "
            "that others have made, and the convention is the smallest.",
        ),
        Mistake(
            "no modulo",
            refusing_none(lambda x, a, b, p: (a * x + b).amin(1)),
            "Without the remainder nothing is shuffled: the smallest x stays the smallest under every a x + b. All k "
            "numbers then tell the same, and the estimate is 0 or 1.",
        ),
        Mistake(
            "smallest first, then shuffled",
            refusing_none(lambda x, a, b, p: (a[:, 0] * x.min() + b[:, 0]) % p),
            "You take the smallest hash first and shuffle it alone: all k numbers describe one shingle. Shuffle all "
            "hashes, then take the smallest of each shuffle.",
        ),
        Mistake(
            "offset missing",
            refusing_none(lambda x, a, b, p: (a * x % p).amin(1)),
            "The offsets are missing: (multiplier * x + offset) % prime. Without them 0 is always the smallest.",
        ),
        Mistake(
            "offset after the remainder",
            refusing_none(lambda x, a, b, p: (a * x % p + b).amin(1)),
            "The remainder comes last: (multiplier * x + offset) % prime. Added after it, the offset changes every "
            "value alike, and the order not at all.",
        ),
        Mistake(
            "along the wrong dimension",
            refusing_none(lambda x, a, b, p: ((a * x + b) % p).amin(0)),
            "Your result has a number for each shingle: the minimum was taken over the shuffles. It goes over the "
            "shingles, and leaves a number for each shuffle.",
        ),
        Mistake(
            "one shuffle",
            refusing_none(lambda x, a, b, p: ((a[0] * x + b[0]) % p).amin().expand(len(a)).clone()),
            "You use the first multiplier and offset for all. k equal numbers are worth no more than one.",
        ),
        Mistake(
            "place of the smallest",
            refusing_none(lambda x, a, b, p: ((a * x + b) % p).argmin(1)),
            "You give the place of the smallest hash in the list. Places mean nothing in another set: give its value.",
        ),
        Mistake(
            "the k smallest of one shuffle",
            refusing_none(lambda x, a, b, p: ((a[0] * x + b[0]) % p).sort().values[: len(a)]),
            "You shuffle once and keep the k smallest. There is such a method (bottom-k), with another estimate; here "
            "place i of two signatures must belong to the same shuffle i.",
        ),
        Mistake(
            "empty set not refused",
            without_refusal,
            "An empty set has no smallest hash. Say so with a ValueError, before torch stops with an error about a "
            "dimension.",
        ),
    ),
)
