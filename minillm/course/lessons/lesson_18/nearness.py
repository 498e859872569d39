r"""The kernel of nearness."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def point_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), 0.5), {}
    for dtype in (torch.float32, torch.float64):
        n, m, d = draw.sizes(3, 2, 6)
        x, y = draw.normal(n, d, dtype=dtype), draw.normal(m, d, dtype=dtype)
        yield (x, y, draw.size(2, 9) / 16), {}
    x = draw.normal(draw.size(4, 6), 2, scale=0.7)
    yield (x, x.clone(), draw.size(11, 19) / 8), {}
    yield (draw.normal(3, 4), draw.normal(5, 4), 0.0), {}  # everything is near


def pair_by_pair(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    r"""A double loop over Python's numbers."""
    rows = [[math.exp(-gamma * math.dist(a, b) ** 2) for b in y.tolist()] for a in x.tolist()]
    return torch.tensor(rows, dtype=x.dtype)


def nearness_by(rule: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    r"""Another rule (squared distances (N, M), gamma)."""
    return lambda x, y, gamma: rule((x[:, None] - y).square().sum(-1), gamma)


def gaps_by(squared: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    r"""Another way from gaps (N, M, D) to squared distances."""
    return lambda x, y, gamma: torch.exp(-gamma * squared(x[:, None] - y))


RBF_KERNEL = Exercise(
    id="detours.kernels.rbf_kernel",
    lesson="18",
    title="The kernel of nearness",
    task="Given points `x` (N, D) and `y` (M, D), return how near each of x is to each of y, (N, M):\n\n"
    "$$k(x, y) = e^{-\\gamma \\, |x - y|^2}$$\n\n"
    "The points (0, 0) and (1, 1) are √2 apart; with γ = 0.5 that gives $e^{-1}$ = 0.3679. A point and itself give 1.",
    difficulty=1,
    minutes=8,
    points=3,
    seed=184,
    hints=(
        "All pairs of two lists: lesson 00 did it by broadcasting, with an axis of length 1 in each of the two.",
        "What is the shape of the gaps between all pairs, and which of its axes has to go?",
        "|x − y|² is the sum of the squared gaps. No root is needed.",
    ),
    cases=point_cases,
    oracle=pair_by_pair,
    other_style=lambda x, y, gamma: torch.exp(-gamma * torch.cdist(x, y) ** 2),
    tolerance=Tolerance(1e-4, 1e-5, "squared distances may be had from products, which lose digits in float32"),
    mistakes=(
        Mistake(
            "not squared",
            nearness_by(lambda squares, gamma: torch.exp(-gamma * squares.sqrt())),
            "You take the distance, not its square. That is a kernel too (of Laplace), with a sharp tip at every point "
            "in place of a bell.",
        ),
        Mistake(
            "gamma for sigma",
            nearness_by(lambda squares, gamma: torch.exp(-squares / (2 * gamma**2))),
            "You treat gamma as the width of the bell. In the other way of writing it, exp(−d² / 2σ²), gamma is "
            "1 / (2σ²): a large gamma makes a *narrow* bell.",
        ),
        Mistake(
            "divided by gamma",
            nearness_by(lambda squares, gamma: torch.exp(-squares / gamma)),
            "You divide by gamma. It multiplies the squared distance: large gamma, narrow bell.",
        ),
        Mistake(
            "gamma squared",
            nearness_by(lambda squares, gamma: torch.exp(-(gamma**2) * squares)),
            "gamma is squared with the distance. Only the distance is.",
        ),
        Mistake(
            "gamma unused",
            nearness_by(lambda squares, gamma: torch.exp(-squares)),
            "gamma is not used: your bells are as wide whatever it is.",
        ),
        Mistake(
            "no minus",
            nearness_by(lambda squares, gamma: torch.exp(gamma * squares)),
            "The minus is missing: your points are the 'nearer' the further they are apart, without limit.",
        ),
        Mistake(
            "no exponential",
            nearness_by(lambda squares, gamma: -gamma * squares),
            "You return the exponent. The exponential is still to be taken.",
        ),
        Mistake(
            "mean over features",
            gaps_by(lambda gaps: gaps.square().mean(-1)),
            "You average the squared gaps over the features. A squared distance is their sum. (Some libraries divide "
            "gamma by D for you; that is another name for another gamma.)",
        ),
        Mistake(
            "summed, then squared",
            gaps_by(lambda gaps: gaps.sum(-1).square()),
            "You add the gaps up before you square them, so that +1 and −1 cancel. Square first.",
        ),
        Mistake(
            "inner product",
            lambda x, y, gamma: torch.exp(gamma * (x @ y.T)),
            "exp(gamma x·y) is not nearness: it grows with the length of x and y, and a point and itself do not give "
            "1. Use the distance.",
        ),
        Mistake(
            "turned round",
            lambda x, y, gamma: pair_by_pair(y, x, gamma),
            "Your result is (M, N). The points of x are the rows, those of y the columns.",
        ),
    ),
)
