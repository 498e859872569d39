r"""What the exercises on filters share: cases, and filters that decide row by row in plain Python."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Filter = Callable[[Tensor, Any], Tensor]
FORBIDDEN = float("-inf")


def drawn_logits(draw: Draw) -> Iterator[Tensor]:
    r"""Logits of one row, of a batch, of every position of a batch; the last with some tokens forbidden already."""
    b, t, vocab_size = draw.sizes(3, 3, 12)
    yield draw.normal(vocab_size, scale=2.0)
    yield draw.normal(b, vocab_size + 8, dtype=torch.float64, scale=2.0)
    yield draw.normal(b, t, vocab_size + 3, scale=2.0)
    some = draw.booleans(t, 12, share=0.3).index_fill(1, torch.tensor([0, 5]), False)
    yield draw.normal(t, 12, scale=1.5).masked_fill(some, FORBIDDEN)


def probabilities(row: Sequence[float]) -> list[float]:
    r"""Softmax of a list."""
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [weight / math.fsum(weights) for weight in weights]


def keeps(choose: Callable[[Sequence[float], Any], Collection[int]], fill: float = FORBIDDEN) -> Filter:
    r"""A filter from a rule that says for one row which tokens stay."""

    def filtered(logits: Tensor, limit: Any) -> Tensor:
        rows = logits.reshape(-1, logits.shape[-1]).tolist()
        gone = [[i not in chosen for i in range(len(row))] for row in rows for chosen in [set(choose(row, limit))]]
        return logits.masked_fill(torch.tensor(gone).view(logits.shape), fill)

    return filtered


def within(low: float, high: float, wrapped: Filter, low_open: bool = False) -> Filter:
    r"""The same filter, which refuses a limit outside its range."""

    def checked(logits: Tensor, limit: Any) -> Tensor:
        if not low <= limit <= high or (low_open and limit == low):
            raise ValueError(f"limit={limit}: out of range")
        return wrapped(logits, limit)

    return checked


def by_likelihood(row: Sequence[float]) -> list[int]:
    r"""Token ids, the likeliest first."""
    return sorted(range(len(row)), key=lambda i: -row[i])


def reaching(order: Sequence[int], probs: Sequence[float], share: float) -> list[int]:
    r"""The first tokens of an order, up to and with the one at which their probabilities reach a share."""
    kept: list[int] = []
    while len(kept) < len(order) and math.fsum(probs[i] for i in kept) < share:
        kept.append(order[len(kept)])
    return kept
