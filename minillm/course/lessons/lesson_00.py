r"""Exercises of lesson 00: every pair at once, softmax and its logarithm."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

FLOATS = (torch.float32, torch.float64)
EXACT_SUMS = Tolerance(1e-6, 1e-7, "a single subtraction; no sum whose order could matter")
LOG_OF_SUM = Tolerance(2e-5, 1e-4, "subtracting the log of the sum from scores near 400, where float32 steps by 3e-5")
AFTER_EXP = Tolerance(2e-5, 1e-6, "exp in float32 doubles the rounding error of its argument, and the sum adds to it")

BATCH_ONLY = "It works for vectors, but not with leading dimensions: they must stay where they are."
OTHER_DIM = (
    "You always go along the last dimension. The argument `dim` says along which one the results must sum to 1: "
    "use it in the maximum and in the sum."
)


def pairwise_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    n, m, batch, more = draw.sizes(4, 2, 7)
    yield (draw.integers(-9, 9, 2), draw.integers(-9, 9, 3)), {}
    yield (draw.integers(-9, 9, n), draw.integers(-9, 9, n)), {}
    yield (draw.normal(n), draw.normal(m)), {}
    yield (draw.normal(batch, n, dtype=torch.float64), draw.normal(batch, m, dtype=torch.float64)), {}
    yield (draw.normal(batch, more, n), draw.normal(more, m)), {}
    yield (draw.integers(0, 50, batch, n), draw.integers(0, 50, m)), {}


def pairwise_by_loops(a: Tensor, b: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    a, b = a.expand(*batch, a.shape[-1]), b.expand(*batch, b.shape[-1])
    out = torch.empty(*batch, a.shape[-1], b.shape[-1], dtype=a.dtype)
    for *lead, i, j in product(*map(range, out.shape)):
        out[(*lead, i, j)] = a[(*lead, i)] - b[(*lead, j)]
    return out


BROADCAST_PAIRWISE = Exercise(
    id="layers.pairwise.broadcast_pairwise",
    lesson="00",
    title="Every pair at once",
    task="Subtract every element of `b` from every element of `a`, without a loop: row i, column j of the table is "
    "`a[i] - b[j]`. Leading dimensions, if there are any, stay in front.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=11,
    hints=(
        "Broadcasting stretches dimensions of size 1. Which shapes must `a` and `b` have, so that `a - b` has "
        "shape (n, m)?",
        "Make `a` a column, (n, 1), and `b` a row, (1, m). Indexing with `None` puts in a dimension of size 1.",
        "With dimensions in front, count from the end: `...` stands for all of them.",
    ),
    cases=pairwise_cases,
    oracle=pairwise_by_loops,
    other_style=lambda a, b: a.unsqueeze(-1) - b.unsqueeze(-2),
    tolerance=EXACT_SUMS,
    mistakes=(
        Mistake(
            "table transposed",
            lambda a, b: a[..., None, :] - b[..., :, None],
            "Your table lies on its side: rows must belong to `a` and columns to `b`. Make `a` the column.",
        ),
        Mistake(
            "sign turned round",
            lambda a, b: b[..., None, :] - a[..., :, None],
            "The sign is turned round: element (i, j) is `a[i] - b[j]`, and you subtract `a` from `b`.",
        ),
        Mistake(
            "no new dimensions",
            lambda a, b: a - b,
            "You subtract element by element: `a[i] - b[i]`. Every pair is asked for, so each of the two needs a "
            "dimension of size 1 for the other to stretch into.",
        ),
        Mistake("vectors only", lambda a, b: a[:, None] - b[None, :], BATCH_ONLY),
        Mistake(
            "sum instead of difference",
            lambda a, b: a[..., :, None] + b[..., None, :],
            "You add where the difference is asked for: `a[i] - b[j]`.",
        ),
        Mistake(
            "absolute difference",
            lambda a, b: (a[..., :, None] - b[..., None, :]).abs(),
            "You took the absolute value. The sign is needed: later it tells whether a key stands before or after"
            " a query.",
        ),
    ),
)


def score_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    n, m, k = draw.sizes(3, 3, 7)
    yield (draw.normal(3),), {}
    yield (draw.normal(n, m),), {}
    yield (draw.normal(n, n, dtype=torch.float64),), {"dim": 0}
    yield (draw.normal(n, m, k, dtype=draw.choice(FLOATS)), draw.choice((1, -2))), {}
    yield (draw.normal(4, scale=40.0) + 300.0,), {}  # exp overflows
    far_apart = torch.tensor([[200.0], [-200.0]])  # a maximum over both rows leaves exp(-400) = 0 in the second
    yield (draw.normal(2, m) + far_apart,), {}
    yield (draw.normal(n, m, scale=60.0), 0), {}  # probabilities far too small for float32


def softmax_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield from score_cases(draw)
    blocked = draw.normal(3, 5)
    blocked[:, 1:3] = float("-inf")  # as a mask does
    yield (blocked,), {}


def softmax_in_float64(x: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(x.double(), dim).to(x.dtype)


def softmax_no_maximum(x: Tensor, dim: int = -1) -> Tensor:
    return x.exp() / x.exp().sum(dim, keepdim=True)


def softmax_one_maximum(x: Tensor, dim: int = -1) -> Tensor:
    exp = (x - x.max()).exp()
    return exp / exp.sum(dim, keepdim=True)


def softmax_over_everything(x: Tensor, dim: int = -1) -> Tensor:
    exp = (x - x.max()).exp()
    return exp / exp.sum()


def softmax_no_keepdim(x: Tensor, dim: int = -1) -> Tensor:
    exp = (x - x.amax(dim)).exp()
    return exp / exp.sum(dim)


def softmax_no_sum(x: Tensor, dim: int = -1) -> Tensor:
    return (x - x.amax(dim, keepdim=True)).exp()


SOFTMAX = Exercise(
    id="layers.softmax.softmax",
    lesson="00",
    title="Softmax",
    task="Turn scores into probabilities along `dim`: exp of each, divided by the sum of all. It must also be right"
    " for scores such as 1000, whose exp is too large for a float.",
    difficulty=1,
    minutes=10,
    points=3,
    seed=12,
    hints=(
        "Write it for one row of three scores first: exp, sum, divide. Then think of a matrix, and of `dim`.",
        "`keepdim=True` keeps the summed dimension with size 1, so that the division broadcasts.",
        "exp(x - c) / sum exp(x - c) is the same for every c. With which c is the largest exponent 0?",
    ),
    cases=softmax_cases,
    oracle=softmax_in_float64,
    other_style=lambda x, dim=-1: (x - x.logsumexp(dim, keepdim=True)).exp(),
    tolerance=AFTER_EXP,
    mistakes=(
        Mistake(
            "no maximum subtracted",
            softmax_no_maximum,
            "The formula is right, but exp overflows: exp(1000) is inf, and inf / inf is NaN. Subtract the "
            "largest score first: it cancels in the fraction.",
        ),
        Mistake(
            "one maximum for all rows",
            softmax_one_maximum,
            "You subtract the largest score of the whole tensor. In a row that lies far below it every exp "
            "underflows to 0, and 0/0 is NaN: each row needs its own maximum.",
        ),
        Mistake(
            "sum over everything",
            softmax_over_everything,
            "You divide by the sum over the whole tensor. The probabilities must sum to 1 along `dim`, in each "
            "row for itself.",
        ),
        Mistake("dim ignored", lambda x, dim=-1: torch.softmax(x, -1), OTHER_DIM),
        Mistake(
            "keepdim missing",
            softmax_no_keepdim,
            "The maximum and the sum lose their dimension, and broadcasting then lines the rest up wrongly (or "
            "not at all). Keep it with `keepdim=True`.",
        ),
        Mistake(
            "not divided by the sum",
            softmax_no_sum,
            "You have the exponentials, but they do not sum to 1 yet: divide by their sum along `dim`.",
        ),
    ),
)


def log_softmax_in_float64(x: Tensor, dim: int = -1) -> Tensor:
    return torch.log_softmax(x.double(), dim).to(x.dtype)


def log_softmax_maximum_lost(x: Tensor, dim: int = -1) -> Tensor:
    return x - (x - x.amax(dim, keepdim=True)).exp().sum(dim, keepdim=True).log()


def log_softmax_no_log(x: Tensor, dim: int = -1) -> Tensor:
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True)


LOG_SOFTMAX = Exercise(
    id="layers.softmax.log_softmax",
    lesson="00",
    title="The logarithm of softmax",
    task="Give the natural logarithm of softmax along `dim`, without computing a softmax: a probability may be too "
    "small for a float although its logarithm, -200 say, is not.",
    difficulty=2,
    minutes=10,
    points=3,
    seed=13,
    hints=(
        "Take the logarithm of the fraction exp(x) / sum exp(x) on paper. Which two terms are left?",
        "log exp(x) is x: this exp never needs to be computed.",
        "As in softmax, take the largest score away first, from all scores; use the shifted scores in both terms.",
    ),
    cases=score_cases,
    oracle=log_softmax_in_float64,
    other_style=lambda x, dim=-1: x - x.logsumexp(dim, keepdim=True),
    tolerance=LOG_OF_SUM,
    mistakes=(
        Mistake(
            "log of softmax",
            lambda x, dim=-1: torch.softmax(x, dim).log(),
            "You compute the softmax first. Where a probability is too small for a float it becomes 0, and log(0)"
            " is -inf. Take the logarithm on paper: x minus the log of the sum.",
        ),
        Mistake(
            "no maximum subtracted",
            lambda x, dim=-1: x - x.exp().sum(dim, keepdim=True).log(),
            "The formula is right, but exp overflows for large scores, and underflows for very small ones. "
            "Subtract the largest score along `dim` first.",
        ),
        Mistake(
            "maximum lost",
            log_softmax_maximum_lost,
            "You subtract the maximum inside the sum but not outside of it, so it no longer cancels: everything "
            "is off by that maximum. Use the shifted scores in both terms.",
        ),
        Mistake(
            "log of the sum missing",
            log_softmax_no_log,
            "You subtract the sum itself. The logarithm of a fraction is a difference of logarithms: take the log"
            " of the sum.",
        ),
        Mistake("dim ignored", lambda x, dim=-1: torch.log_softmax(x, -1), OTHER_DIM),
        Mistake(
            "sum over everything",
            lambda x, dim=-1: x - x.double().flatten().logsumexp(0).to(x.dtype),
            "Your sum goes over the whole tensor. exp of the result must sum to 1 along `dim`, in each row for itself.",
        ),
    ),
)

EXERCISES = (BROADCAST_PAIRWISE, SOFTMAX, LOG_SOFTMAX)
