r"""Find the bug: a norm that looks ahead."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def group_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for n_groups, group_size, dtype, eps in (
        (2, 3, torch.float32, 1e-5),
        (1, 5, torch.float32, 1e-5),
        (*draw.sizes(2, 3, 5), torch.float64, 1e-2),
    ):
        d = n_groups * group_size
        x = draw.normal(*draw.sizes(2, 2, 5), d, dtype=dtype, scale=2.0) + draw.normal(d, dtype=dtype, scale=3.0)
        yield (x, n_groups, draw.normal(d, dtype=dtype), draw.normal(d, dtype=dtype)), {"eps": eps}
    yield (draw.normal(1, 2, 6, scale=3e-3), 3, draw.normal(6), draw.normal(6)), {}
    yield (draw.normal(2, 3, 6), 4, draw.normal(6), draw.normal(6)), {}


def layer_norm_of_each_piece(x: Tensor, n_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    if x.shape[-1] % n_groups:
        raise ValueError(f"n_groups={n_groups}")
    size = x.shape[-1] // n_groups
    return torch.cat([
        F.layer_norm(x[..., i : i + size], (size,), weight[i : i + size], bias[i : i + size], eps)
        for i in range(0, x.shape[-1], size)
    ], dim=-1)  # fmt: skip


def tokens_as_samples(x: Tensor, n_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    if x.shape[-1] % n_groups != 0:
        raise ValueError(f"n_groups={n_groups} does not divide {x.shape[-1]}")
    return F.group_norm(x.reshape(-1, x.shape[-1]), n_groups, weight, bias, eps).reshape(x.shape)


def through_time(x: Tensor, n_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    r"""The function as it was found, bug included; the text of the exercise shows it."""
    features_first = x.transpose(-2, -1)
    if features_first.shape[-2] % n_groups:
        raise ValueError(f"n_groups={n_groups} must divide the features")
    return F.group_norm(features_first, n_groups, weight, bias, eps).transpose(-2, -1)


def grouped_by(
    normal: Callable[[Tensor, float], Tensor] = lambda g, eps: (g - g.mean(-1, keepdim=True))
    / (g.var(-1, unbiased=False, keepdim=True) + eps).sqrt(),
    split: Callable[[Tensor, int], Tensor] = lambda x, n: x.unflatten(-1, (n, -1)),
    join: Callable[[Tensor], Tensor] = lambda g: g.flatten(-2),
    affine: bool = True,
    refuse: bool = True,
) -> Callable[..., Tensor]:
    r"""A GroupNorm with other statistics or other groups."""

    def wrong(x: Tensor, n_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
        if refuse and x.shape[-1] % n_groups:
            raise ValueError(f"n_groups={n_groups} must divide the features")
        out = join(normal(split(x, n_groups), eps))
        return out * weight + bias if affine else out

    return wrong


GROUP_NORM = Exercise(
    id="layers.group_norm.group_norm",
    lesson="05",
    title="Find the bug",
    task="A model with linear attention normalizes what each head puts out by itself: GroupNorm, with a group for each "
    "head. Somebody has written:\n\n```python\n"
    "def group_norm(x, n_groups, weight, bias, eps=1e-5):   # x: (B, T, D)\n"
    "    features_first = x.transpose(-2, -1)               # torch wants (B, D, T)\n"
    "    if features_first.shape[-2] % n_groups:\n"
    "        raise ValueError(f\"n_groups={n_groups} must divide the features\")\n"
    "    return F.group_norm(features_first, n_groups, weight, bias, eps).transpose(-2, -1)\n"
    "```\n\n"
    "It runs, and the loss falls, lower than an honest loss can. The cell above has played dice with it. Say in a "
    "sentence what is wrong, then write it as it should be: for each token alone, for each of `n_groups` runs of "
    "neighbouring features alone, subtract the mean and divide by the root of the variance plus `eps`; then `weight` "
    "and `bias` for all D features. A ValueError if the groups do not fit.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=56,
    hints=(
        "Over how many numbers does `F.group_norm` take one mean, for x of shape (B, D, T)? Its documentation was "
        "written for pictures.",
        "Give the features two axes, (..., n_groups, D / n_groups): `unflatten(-1, (n_groups, -1))`. Which axis do "
        "the statistics run over?",
        "What you have normalized becomes (..., D) again by `flatten(-2)`; then weight and bias fit.",
    ),
    cases=group_cases,
    oracle=layer_norm_of_each_piece,
    other_style=tokens_as_samples,
    tolerance=Tolerance(1e-4, 1e-4, "means of numbers near 5 are subtracted in float32"),
    mistakes=(
        Mistake(
            "through time",
            through_time,
            "The bug is still there: the statistics of a group run over all T tokens. Each output depends on every "
            "token, later ones too. In training the model reads the future through the norm; when it writes, there "
            "is no future to read.",
        ),
        Mistake(
            "one group",
            grouped_by(split=lambda x, n: x, join=lambda g: g),
            "You normalize all features of a token together: that is LayerNorm. Each group has its own mean and "
            "variance, so that a loud head does not silence the others.",
        ),
        Mistake(
            "every n-th feature",
            grouped_by(split=lambda x, n: x.unflatten(-1, (-1, n)).mT, join=lambda g: g.mT.flatten(-2)),
            "Your groups take every n-th feature. A head's features lie side by side: the group is the slower axis, "
            "(n_groups, D / n_groups).",
        ),
        Mistake(
            "variance divided by one less",
            grouped_by(lambda g, eps: (g - g.mean(-1, keepdim=True)) / (g.var(-1, keepdim=True) + eps).sqrt()),
            "Your variance divides by the size of the group minus 1, as `var` does unless told otherwise. Norms divide "
            "by the size: unbiased=False.",
        ),
        Mistake(
            "eps outside the root",
            grouped_by(
                lambda g, eps: (g - g.mean(-1, keepdim=True)) / (g.std(-1, unbiased=False, keepdim=True) + eps)
            ),
            "eps stands outside the root. Add it to the variance.",
        ),
        Mistake(
            "not centred",
            grouped_by(lambda g, eps: g / (g.square().mean(-1, keepdim=True) + eps).sqrt()),
            "The mean of each group is not subtracted. That is a norm too (RMS, head by head), but not this one.",
        ),
        Mistake(
            "weight and bias forgotten",
            grouped_by(affine=False),
            "`weight` and `bias` are not used: they come last, a number for each of the D features.",
        ),
        Mistake(
            "groups that do not fit",
            lambda x, n_groups, weight, bias, eps=1e-5: grouped_by()(
                x, n_groups if x.shape[-1] % n_groups == 0 else 1, weight, bias, eps
            ),
            "Where the groups do not divide D you go on with a single one. Raise a ValueError: a head that is silently "
            "dropped is found weeks later.",
        ),
    ),
)
