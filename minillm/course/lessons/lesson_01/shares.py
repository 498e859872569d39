r"""Exercise: the shares of a mixture."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def share_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield ([draw.size(60, 99), draw.size(2, 9)], 0.5), {}
    yield ([900, 100], 1.0), {}
    yield ([draw.size(2, 99), 100, 101], 0.0), {}
    counts = [draw.size(1, 10 ** draw.size(1, 9)) for _ in range(draw.size(3, 6))]
    yield (counts, draw.size(20, 80) / 100), {}
    yield (tuple(counts), 0.3), {}
    yield ([draw.size(5, 9), 0], 0.3), {}
    yield ([], 0.3), {}


def shares_by_hand(token_counts: Sequence[int], exponent: float) -> Tensor:
    if not token_counts or min(token_counts) < 1:
        raise ValueError("token_counts")
    powers = [count**exponent for count in token_counts]
    return torch.tensor([power / sum(powers) for power in powers], dtype=torch.float64)


def only_if_filled(weigh: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor]:
    def shares(token_counts: Sequence[int], exponent: float) -> Tensor:
        if len(token_counts) == 0 or min(token_counts) < 1:
            raise ValueError("token_counts: leave out empty collections")
        return weigh(torch.tensor(token_counts, dtype=torch.float64), exponent)

    return shares


def empty_ones_too(token_counts: Sequence[int], exponent: float) -> Tensor:
    powers = torch.tensor(token_counts, dtype=torch.float64) ** exponent
    return powers / powers.sum()


MIXTURE_SHARES = Exercise(
    id="text.mixture.mixture_shares",
    lesson="01",
    title="The shares of a mixture",
    task="How much of each collection should a model read? Take share i in proportion to `token_counts[i]` to the "
    "power of `exponent`. With exponent 1 a large collection drowns a small one; with 0 each gets the same. Refuse "
    "an empty collection, and an empty list, with a ValueError. The result is float64.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=27,
    hints=(
        "Two collections, 900 and 100 tokens, exponent 0.5: the powers are 30 and 10. Which shares?",
        "`torch.tensor(..., dtype=torch.float64)`: float32 cannot even hold a count of a billion exactly.",
    ),
    cases=share_cases,
    oracle=shares_by_hand,
    other_style=only_if_filled(lambda n, exponent: torch.softmax(exponent * n.log(), 0)),
    tolerance=Tolerance(1e-9, 1e-12, "float64 powers"),
    mistakes=(
        Mistake(
            "not divided by the sum",
            only_if_filled(lambda n, exponent: n**exponent),
            "These are weights, not shares yet: they do not sum to 1. Divide by their sum.",
        ),
        Mistake(
            "divided before the power only",
            only_if_filled(lambda n, exponent: (n / n.sum()) ** exponent),
            "You divide before taking the power, and not after it: the shares no longer sum to 1.",
        ),
        Mistake(
            "exponent ignored",
            only_if_filled(lambda n, exponent: n / n.sum()),
            "Your shares are in proportion to size, whatever the exponent.",
        ),
        Mistake(
            "always equal",
            only_if_filled(lambda n, exponent: torch.full_like(n, 1 / len(n))),
            "Your shares are all equal, whatever the sizes. That is the case exponent = 0 only.",
        ),
        Mistake(
            "softmax of the counts",
            only_if_filled(lambda n, exponent: torch.softmax(exponent * n, 0)),
            "You use exp(exponent * count). With counts of thousands the largest collection gets everything. It is "
            "count ** exponent, which equals exp(exponent * log(count)).",
        ),
        Mistake(
            "one minus the exponent",
            only_if_filled(lambda n, exponent: n ** (1 - exponent) / (n ** (1 - exponent)).sum()),
            "Your exponent works the wrong way round: 1 must give shares in proportion to size, 0 equal ones.",
        ),
        Mistake(
            "empty collection accepted",
            empty_ones_too,
            "A collection without a token must be refused: there is nothing to sample from it. With exponent 0 it "
            "would even get a full share.",
        ),
    ),
)
