r"""BatchNorm as it runs after training."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def batch_norm_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for shape, dtype, eps in (
        ((4,), torch.float32, 1e-5),
        (tuple(draw.sizes(2, 3, 7)), torch.float32, 1e-5),
        (tuple(draw.sizes(3, 3, 7)), torch.float64, 1e-2),
    ):
        mean, weight, bias = (draw.normal(shape[-1], dtype=dtype) for _ in range(3))
        var = draw.normal(shape[-1], dtype=dtype).square()
        var[0] = 0.0  # a feature that never moved in training
        yield (draw.normal(*shape, dtype=dtype, scale=2.0), mean, var, weight, bias), {"eps": eps}


def feature_by_feature(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    columns = []
    for d in range(x.shape[-1]):
        spread = (float(running_var[d]) + eps) ** 0.5
        columns.append((x[..., d].double() - float(running_mean[d])) / spread * float(weight[d]) + float(bias[d]))
    return torch.stack(columns, dim=-1).to(x.dtype)


def one_gain_one_shift(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    gain = weight / (running_var + eps).sqrt()
    return x * gain + (bias - running_mean * gain)


def remembered_by(
    mean: Callable[[Tensor, Tensor], Tensor] = lambda x, running: running,
    var: Callable[[Tensor, Tensor], Tensor] = lambda x, running: running,
    spread: Callable[[Tensor, float], Tensor] = lambda var, eps: (var + eps).sqrt(),
    scale: bool = True,
    shift: bool = True,
) -> Callable[..., Tensor]:
    r"""A BatchNorm with statistics from elsewhere, another spread, or without one of its vectors."""

    def wrong(
        x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
    ) -> Tensor:
        out = (x - mean(x, running_mean)) / spread(var(x, running_var), eps)
        out = out * weight if scale else out
        return out + bias if shift else out

    return wrong


def rows_of(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def memory_moved(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    out = one_gain_one_shift(x, running_mean, running_var, weight, bias, eps)
    running_mean.lerp_(rows_of(x).mean(0), 0.1)
    running_var.lerp_(rows_of(x).var(0, unbiased=False), 0.1)
    return out


BATCH_NORM_EVAL = Exercise(
    id="layers.batch_norm.batch_norm_eval",
    lesson="05",
    title="BatchNorm after training",
    task="In training, BatchNorm takes mean and variance of each feature over the batch, and remembers a running "
    "average of each. After training it uses these: subtract `running_mean`, divide by the root of `running_var` plus "
    "`eps`, multiply by `weight`, add `bias`. All four are vectors with a number for each feature.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=53,
    hints=(
        "Nothing is averaged here: the averages are handed in. Which axis of x do vectors of length D meet by "
        "broadcasting?",
        "`running_var` is a variance: take the root, and put eps inside it.",
    ),
    cases=batch_norm_cases,
    oracle=feature_by_feature,
    other_style=one_gain_one_shift,
    tolerance=Tolerance(1e-4, 1e-4, "a feature with variance 0 is divided by 0.003"),
    mistakes=(
        Mistake(
            "statistics of this batch",
            remembered_by(lambda x, _: rows_of(x).mean(0), lambda x, _: rows_of(x).var(0, unbiased=False)),
            "You use mean and variance of x itself, as in training. After training there may be a single sample: it "
            "would be its own mean, and come out as 0. Use running_mean and running_var.",
        ),
        Mistake(
            "mean of this batch",
            remembered_by(mean=lambda x, _: rows_of(x).mean(0)),
            "The variance is the remembered one, the mean is that of this batch. Both come from training.",
        ),
        Mistake(
            "statistics of each token",
            remembered_by(
                lambda x, _: x.mean(-1, keepdim=True), lambda x, _: x.var(-1, unbiased=False, keepdim=True)
            ),
            "You normalize each row over its features: that is LayerNorm. BatchNorm has one mean and one variance for "
            "each feature, and they are handed in.",
        ),
        Mistake(
            "no root",
            remembered_by(spread=lambda var, eps: var + eps),
            "running_var is a variance. Divide by the root of it.",
        ),
        Mistake(
            "eps outside the root",
            remembered_by(spread=lambda var, eps: var.sqrt() + eps),
            "You add eps to the root. It belongs inside, beside the variance.",
        ),
        Mistake(
            "no eps",
            remembered_by(spread=lambda var, eps: var.sqrt()),
            "There is no eps. A feature that never moved in training has variance 0, and you divide by it.",
        ),
        Mistake(
            "not centred",
            remembered_by(mean=lambda x, running: torch.zeros_like(running)),
            "running_mean is not subtracted, so a feature that was around 5 in training stays around 5 / spread.",
        ),
        Mistake(
            "weight forgotten",
            remembered_by(scale=False),
            "`weight` is not used: each feature is scaled by its own after it has been normalized.",
        ),
        Mistake(
            "bias forgotten",
            remembered_by(shift=False),
            "`bias` is not added. It comes last, after the weight.",
        ),
        Mistake(
            "memory changed",
            memory_moved,
            "The values are right, but you have moved running_mean and running_var. Evaluation must not learn: with "
            "these a model would answer differently after every question it has been asked.",
        ),
    ),
)
