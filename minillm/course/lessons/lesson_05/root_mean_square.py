r"""RMSNorm."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

HALVES = (torch.float16, torch.bfloat16)


def rms_norm_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (draw.normal(5), draw.normal(5)), {}
    b, t, d = draw.sizes(3, 3, 8)
    yield (draw.normal(b, t, d, scale=3.0) + 2.0, draw.normal(d)), {}
    yield (draw.normal(t, d, dtype=torch.float64, scale=1e-3), draw.normal(d, dtype=torch.float64)), {"eps": 1e-5}
    silent = draw.normal(b, d)
    silent[1] = 0.0
    yield (silent, draw.normal(d)), {}
    # In float16 the square of 300 is infinite. And features beside an outlier become so small that few bits are left.
    yield (draw.normal(t, d, dtype=torch.float16, scale=400.0), draw.normal(d, dtype=torch.float16)), {}
    outlier = draw.normal(b, 6, dtype=torch.float64, scale=1e-3).abs() + 5e-4
    outlier[:, 2] = 6000.0
    yield (outlier.half(), (400 + draw.normal(6, scale=50.0)).half()), {}
    yield (draw.normal(b, t, dtype=torch.bfloat16, scale=5.0), draw.normal(t, dtype=torch.bfloat16)), {"eps": 0.1}


def root_by_hand(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    tokens = []
    for token in x.reshape(-1, x.shape[-1]).tolist():
        root = math.sqrt(math.fsum(number * number for number in token) / len(token) + eps)
        tokens.append([number / root for number in token])
    return torch.tensor(tokens, dtype=torch.float64).reshape(x.shape).to(x.dtype) * weight


def by_length(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    wide = x.float() if x.dtype in HALVES else x
    mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True) ** 2 / x.shape[-1]
    return weight * (wide / torch.sqrt(mean_square + eps)).type(x.dtype)


def rooted_by(
    root: Callable[[Tensor, float], Tensor] = lambda w, eps: (w.square().mean(-1, keepdim=True) + eps).sqrt(),
    gain: Callable[[Tensor], Tensor] = lambda weight: weight,
    wide: Callable[[Tensor], Tensor] = lambda x: x.float() if x.dtype in HALVES else x,
    back: bool = True,
) -> Callable[..., Tensor]:
    r"""An RMSNorm with another root, another gain, or other dtypes on the way."""

    def wrong(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
        normal = wide(x) / root(wide(x), eps)
        return (normal.to(x.dtype) if back else normal) * gain(weight)

    return wrong


def cast_last(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    wide, gain = (y.float() if y.dtype in HALVES else y for y in (x, weight))
    return (wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * gain).to(x.dtype)


def centred_too(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    wide = x.float() if x.dtype in HALVES else x
    return rooted_by()((wide - wide.mean(-1, keepdim=True)).to(x.dtype), weight, eps)


RMS_NORM = Exercise(
    id="layers.norms.rms_norm",
    lesson="05",
    title="RMSNorm",
    task="Divide each token by the root of the mean square of its features plus `eps`, then multiply by `weight`. "
    "Nothing is subtracted, nothing is added.\n\n"
    "This runs in 16 bits too, in three steps: normalize in float32, cast to the dtype of `x`, multiply by `weight`.",
    difficulty=2,
    minutes=10,
    points=3,
    seed=52,
    hints=(
        "Take your LayerNorm and cross out what is not asked for.",
        "`x.float()` is a float32 copy. In which dtype must the squares be taken, if 300 may occur in float16, whose "
        "largest number is 65504?",
        "Three steps in the order of the task: the division in float32, then `.to(x.dtype)`, then the product.",
    ),
    cases=rms_norm_cases,
    oracle=root_by_hand,
    other_style=by_length,
    tolerance=Tolerance(1e-4, 1e-6, "float32 sums taken in another order"),
    mistakes=(
        Mistake(
            "centred",
            centred_too,
            "You subtract the mean: that is LayerNorm. RMSNorm leaves the mean where it is. It saves a reduction, and "
            "models get on as well without it.",
        ),
        Mistake(
            "eps outside the root",
            rooted_by(lambda w, eps: w.square().mean(-1, keepdim=True).sqrt() + eps),
            "You add eps to the root. It belongs to the mean square, inside the root; for small features the two are "
            "far apart.",
        ),
        Mistake(
            "no eps",
            rooted_by(lambda w, eps: w.square().mean(-1, keepdim=True).sqrt()),
            "There is no eps: a token of zeros, such as padding may be, becomes 0/0.",
        ),
        Mistake(
            "divided by the length",
            rooted_by(lambda w, eps: (w.square().sum(-1, keepdim=True) + eps).sqrt()),
            "You divide by the length of the vector, the root of the *sum* of squares. Then every token has length 1, "
            "and its features are smaller by sqrt(D). Take the mean of the squares.",
        ),
        Mistake(
            "mean of absolute values",
            rooted_by(lambda w, eps: w.abs().mean(-1, keepdim=True) + eps),
            "You divide by the mean absolute value. Root, mean, square: read the name from right to left.",
        ),
        Mistake(
            "no root",
            rooted_by(lambda w, eps: w.square().mean(-1, keepdim=True) + eps),
            "You divide by the mean square, without the root: a token that is ten times as large would come out ten "
            "times smaller.",
        ),
        Mistake(
            "weight forgotten",
            rooted_by(gain=torch.ones_like),
            "`weight` is not used. Formulas on the web often leave it out, but each feature has a learned gain.",
        ),
        Mistake(
            "1 + weight",
            rooted_by(gain=lambda weight: 1 + weight),
            "You multiply by 1 + weight. That is Gemma's way of storing the same gain, with weights that start at 0. "
            "Ours start at 1 and are the gain itself.",
        ),
        Mistake(
            "one root for everything",
            rooted_by(lambda w, eps: (w.square().mean() + eps).sqrt()),
            "There is one root for the whole tensor, so tokens share their size with each other. Each token has its "
            "own: dim=-1, keepdim=True.",
        ),
        Mistake(
            "squared in 16 bits",
            rooted_by(wide=lambda x: x),
            "You square in the dtype of x. In float16 the square of 300 is already infinite, and the token becomes 0. "
            "Go to float32 before you square.",
        ),
        Mistake(
            "weight before the cast",
            cast_last,
            "You multiply by the weight in float32 and cast last. Gemma does that; LLaMA casts first, and so do we. "
            "The bits differ, most of all beside an outlier feature: weights trained in one order want that order.",
        ),
        Mistake(
            "not cast back",
            rooted_by(back=False),
            "For a 16-bit x you return float32. Cast what you have normalized to the dtype of x before you multiply: "
            "otherwise the rest of the model runs in float32 without anybody noticing.",
        ),
    ),
)
