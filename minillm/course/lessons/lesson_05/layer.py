r"""LayerNorm."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Numbers = Callable[[Tensor], Tensor]


def layer_norm_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (draw.normal(5), draw.normal(5), draw.normal(5)), {}
    b, t, d = draw.sizes(3, 3, 8)
    yield (draw.normal(b, t, d, scale=3.0) + 2.0, draw.normal(d), draw.normal(d)), {}
    # So small that eps is the larger part of the denominator; then without a bias.
    yield (draw.normal(t, d, dtype=torch.float64, scale=2e-3), *draw.normal(2, d, dtype=torch.float64)), {}
    yield (draw.normal(t, d), draw.normal(d)), {"eps": 0.3}
    constant = draw.normal(t, b)
    constant[1] = 2.0
    yield (constant, draw.normal(b), draw.normal(b)), {}


def number_by_number(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    tokens = []
    for token in x.reshape(-1, x.shape[-1]).tolist():
        mean = math.fsum(token) / len(token)
        spread = math.sqrt(math.fsum((number - mean) ** 2 for number in token) / len(token) + eps)
        tokens.append([(number - mean) / spread for number in token])
    normal = torch.tensor(tokens, dtype=torch.float64).reshape(x.shape) * weight.double()
    return (normal if bias is None else normal + bias.double()).to(x.dtype)


def by_mean_and_var(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    out = weight * ((x - mean) / torch.sqrt(var + eps))
    return out if bias is None else out + bias


def normed_by(
    centre: Numbers = lambda x: x.mean(-1, keepdim=True),
    spread: Callable[[Tensor, float], Tensor] = lambda c, eps: (c.square().mean(-1, keepdim=True) + eps).sqrt(),
    scale: bool = True,
    shift: bool = True,
) -> Callable[..., Tensor]:
    r"""A LayerNorm with another centre, another spread, or without one of its two vectors."""

    def wrong(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
        centred = x - centre(x)
        normal = centred / spread(centred, eps)
        normal = normal * weight if scale else normal
        return normal + bias if shift and bias is not None else normal

    return wrong


def normed_over(dim: Any) -> Callable[..., Tensor]:
    r"""A LayerNorm over other dimensions than the last."""
    return normed_by(
        lambda x: x.mean(dim, keepdim=True), lambda c, eps: (c.square().mean(dim, keepdim=True) + eps).sqrt()
    )


def weighed_first(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    x = x * weight if bias is None else x * weight + bias
    return by_mean_and_var(x, torch.ones_like(weight), None, eps)


LAYER_NORM = Exercise(
    id="layers.norms.layer_norm",
    lesson="05",
    title="LayerNorm",
    task="For each token alone: subtract the mean of its features, divide by the root of their variance plus `eps`, "
    "then multiply by `weight` and, if there is one, add `bias`. The variance divides by D, the number of features. "
    "Any number of dimensions may stand before the last.",
    difficulty=1,
    minutes=10,
    points=3,
    seed=51,
    hints=(
        "Write it for a single token first: `x` of shape (D,), and `x.mean()`.",
        "For (..., D) the statistics are taken over the last dimension, and must still be there, with size 1, to be "
        "subtracted: `dim=-1, keepdim=True`.",
        "The variance is the mean of the squares of what is left after the subtraction. Where does eps stand if a "
        "token with equal features is to give zeros, and not 0/0?",
    ),
    cases=layer_norm_cases,
    oracle=number_by_number,
    other_style=by_mean_and_var,
    tolerance=Tolerance(1e-4, 1e-5, "a mean of numbers near 3 is subtracted in float32"),
    mistakes=(
        Mistake(
            "eps outside the root",
            normed_by(spread=lambda c, eps: c.square().mean(-1, keepdim=True).sqrt() + eps),
            "You add eps to the standard deviation. It belongs to the variance, inside the root. Where features are "
            "small the two differ much: for a variance of 1e-6 one divides by 0.00101, the other by 0.0033.",
        ),
        Mistake(
            "no eps",
            normed_by(spread=lambda c, eps: c.square().mean(-1, keepdim=True).sqrt()),
            "There is no eps. A token whose features are all equal then gives 0/0, and one nan is enough to spoil a "
            "whole training run.",
        ),
        Mistake(
            "variance divided by D - 1",
            normed_by(spread=lambda c, eps: (c.square().sum(-1, keepdim=True) / (c.shape[-1] - 1) + eps).sqrt()),
            "Your variance divides by D - 1, which is what `x.var()` and `x.std()` do unless told otherwise (Bessel's "
            "correction). LayerNorm estimates nothing about other samples: it divides by D.",
        ),
        Mistake(
            "not centred",
            normed_by(centre=torch.zeros_like),
            "The mean is not subtracted. That is RMSNorm, the next exercise. LayerNorm shifts each token to mean 0.",
        ),
        Mistake(
            "across the tokens",
            normed_over(-2),
            "Your statistics run over the tokens, one for each feature. A token's output then depends on the tokens "
            "beside it, later ones too, and a causal model sees the future. Take them over the last dimension.",
        ),
        Mistake(
            "across the batch",
            normed_over(0),
            "Your statistics run over the first dimension: that is how BatchNorm works. In LayerNorm each token is "
            "alone; take the statistics over the last dimension.",
        ),
        Mistake(
            "one mean for everything",
            normed_by(lambda x: x.mean(), lambda c, eps: (c.square().mean() + eps).sqrt()),
            "There is one mean and one variance for the whole tensor. Each token has its own: dim=-1, keepdim=True.",
        ),
        Mistake(
            "no root",
            normed_by(spread=lambda c, eps: c.square().mean(-1, keepdim=True) + eps),
            "You divide by the variance. Divide by its root, or a token that is ten times as large comes out ten times "
            "too small.",
        ),
        Mistake(
            "mean deviation",
            normed_by(spread=lambda c, eps: c.abs().mean(-1, keepdim=True) + eps),
            "You divide by the mean distance from the mean. The standard deviation is the root of the mean *square*.",
        ),
        Mistake(
            "weight forgotten",
            normed_by(scale=False),
            "`weight` is not used. Each feature has a learned gain: without it the layer cannot turn a feature down.",
        ),
        Mistake(
            "bias forgotten",
            normed_by(shift=False),
            "`bias` is not used: add it at the end, unless it is None.",
        ),
        Mistake(
            "bias None not expected",
            lambda x, weight, bias=None, eps=1e-5: by_mean_and_var(x, weight, None, eps) + bias,
            "`bias` may be None, and then nothing is added. Many models have norms without a bias.",
        ),
        Mistake(
            "weighed before it is normalized",
            weighed_first,
            "You apply weight and bias first and normalize afterwards, so that most of what they do is undone again. "
            "Normalize, then multiply, then add.",
        ),
    ),
)
