r"""The fixed sine and cosine vectors, and the positions that all exercises of this lesson are tried on."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

LARGE_ANGLES = Tolerance(1e-4, 1e-4, "the angle at position 300 is known to five digits in float32")
COUNTED_FROM_ZERO = (
    "You count the tokens of this call from 0, but the positions are given. In a generation with a cache, the only "
    "token of the call may stand at position 40, and in a padded row the text begins later: use `positions` itself."
)
PADDING_TURNED = (
    "Padding has position -1, and you treat it as a place before the beginning. The rule here is that it counts as "
    "position 0; nobody sees it anyway, but no formula (a table, a logarithm) must stumble over it. Clamp first."
)
BASE_FIXED = "You always take 10000. The constant is an argument, `base`: longer context windows need a larger one."
UPSIDE_DOWN = (
    "Your frequencies grow: base^(+2i/D) where base^(-2i/D) is asked for. Pair 0 turns fastest, one radian a token, "
    "and each further pair more slowly; yours make thousands of turns from one token to the next."
)
HALF_EXPONENT = (
    "The exponent counts pairs where it must count features: it should run over 0, 2, 4, ... divided by the width, "
    "so that the slowest pair comes near 1 / base. Yours ends near 1 / sqrt(base)."
)
NO_BATCH_OF_POSITIONS = (
    "That works for positions of shape (T,) only. A padded batch has (B, T): add the axis of the frequencies at the "
    "*end*, `positions[..., None]`, and let broadcasting do the rest."
)


def drawn_positions(draw: Draw) -> Iterator[Tensor]:
    r"""Positions as they come: from 0, one token behind a cache, a padded batch; the smallest first."""
    t, b = draw.sizes(2, 2, 5)
    yield torch.tensor([0, 1])
    yield draw.integers(30, 300, 1)
    yield draw.integers(0, 300, t)
    left = torch.full((b, t + 1), -1)
    for row in range(b):
        n = draw.size(1, t)
        left[row, t + 1 - n :] = torch.arange(n) + draw.size(0, 20)
    yield left


def sinusoidal_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for number, positions in enumerate(drawn_positions(draw)):
        yield (positions, 2 * draw.size(2, 5)), {} if number % 2 == 0 else {"base": float(draw.size(50, 900))}
    yield (torch.arange(3), 4), {"base": 100.0}
    yield (torch.arange(3), 5), {}  # to be refused


def sinusoidal_by_loops(positions: Tensor, d_model: int, base: float = 10000.0) -> Tensor:
    if d_model % 2:
        raise ValueError(f"d_model={d_model} is odd")
    rows = []
    for position in positions.flatten().tolist():
        for i in range(d_model // 2):
            angle = max(position, 0) / base ** (2 * i / d_model)
            rows += [math.sin(angle), math.cos(angle)]
    return torch.tensor(rows, dtype=torch.float64).reshape(*positions.shape, d_model).float()


def sinusoidal_other_style(positions: Tensor, d_model: int, base: float = 10000.0) -> Tensor:
    if d_model % 2:
        raise ValueError(f"d_model={d_model}: use an even number")
    inv_freq = torch.exp(torch.arange(0, d_model, 2) * (-math.log(base) / d_model))
    angles = torch.where(positions < 0, 0, positions).unsqueeze(-1) * inv_freq
    out = torch.empty(*positions.shape, d_model)
    out[..., 0::2], out[..., 1::2] = angles.sin(), angles.cos()
    return out


def sinusoidal_by(
    inv_freq: Callable[[int, float], Tensor] = lambda d, base: base ** (-torch.arange(0, d, 2) / d),
    places: Callable[[Tensor], Tensor] = lambda positions: positions.clamp(min=0),
    layout: Callable[[Tensor], Tensor] = lambda angles: torch.stack([angles.sin(), angles.cos()], -1).flatten(-2),
) -> Callable[..., Tensor]:
    r"""The sinusoid with other frequencies, other places or another order of features."""

    def wrong(positions: Tensor, d_model: int, base: float = 10000.0) -> Tensor:
        if d_model % 2:
            raise ValueError(f"d_model={d_model}: use an even number")
        return layout(places(positions)[..., None].float() * inv_freq(d_model, base))

    return wrong


def counting_pairs(width: int, base: float) -> Tensor:
    return base ** (-torch.arange(width // 2) / width)


def upside_down(width: int, base: float) -> Tensor:
    return base ** (torch.arange(0, width, 2) / width)


def counted_from_zero(positions: Tensor) -> Tensor:
    return torch.arange(positions.shape[-1]).expand(positions.shape)


def sinusoidal_any_width(positions: Tensor, d_model: int, base: float = 10000.0) -> Tensor:
    return sinusoidal_by_loops(positions, d_model + d_model % 2, base)[..., :d_model]


def sinusoidal_for_one_text(positions: Tensor, d_model: int, base: float = 10000.0) -> Tensor:
    if d_model % 2:
        raise ValueError(f"d_model={d_model}: use an even number")
    angles = torch.outer(positions.clamp(min=0).float(), base ** (-torch.arange(0, d_model, 2) / d_model))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


SINUSOIDAL = Exercise(
    id="layers.sinusoidal.sinusoidal",
    lesson="04",
    title="A vector for every position, without training",
    task="For pair i of the D features take the angle `position * base^(-2i / D)`, and put its sine at feature 2i and "
    "its cosine at feature 2i + 1. No loops. Padding (-1) counts as position 0; an odd `d_model` gets a ValueError "
    "that names it.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=41,
    hints=(
        "Begin with the frequencies, one number a pair: `torch.arange(0, d_model, 2)` is 2i for all pairs at once.",
        "A table of all products of a column and a row is broadcasting: positions with one more axis at the end, times "
        "the row of frequencies.",
        "Sines and cosines must alternate. Stack them along a new last axis, (..., D / 2, 2): read in order, that is "
        "sine, cosine, sine, cosine.",
    ),
    cases=sinusoidal_cases,
    oracle=sinusoidal_by_loops,
    other_style=sinusoidal_other_style,
    tolerance=LARGE_ANGLES,
    mistakes=(
        Mistake(
            "sines first, then cosines",
            sinusoidal_by(layout=lambda angles: torch.cat([angles.sin(), angles.cos()], -1)),
            "All sines come first in yours, then all cosines. Such code exists, and a model trained with it works; but "
            "here they alternate, as in the paper: sine at 2i, cosine at 2i + 1. Weights made for one order do not fit "
            "the other.",
        ),
        Mistake(
            "cosine before sine",
            sinusoidal_by(layout=lambda angles: torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)),
            "Sine and cosine have changed places: the even features are the sines. At position 0 the vector must begin "
            "with 0, 1.",
        ),
        Mistake("exponent counts pairs", sinusoidal_by(counting_pairs), HALF_EXPONENT),
        Mistake("frequencies upside down", sinusoidal_by(upside_down), UPSIDE_DOWN),
        Mistake(
            "one frequency a feature",
            lambda positions, d_model, base=10000.0: sinusoidal_by(
                lambda d, base: base ** (-torch.arange(d) / d),
                layout=lambda angles: torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos()),
            )(positions, d_model, base),
            "Each feature has a frequency of its own in yours. A sine and its cosine must share one: only together are "
            "they a point on a circle, and only then is a shift a rotation.",
        ),
        Mistake(
            "turns instead of radians",
            sinusoidal_by(lambda d, base: 2 * math.pi * base ** (-torch.arange(0, d, 2) / d)),
            "You multiply by 2 pi. The fastest pair then makes a whole turn at every token, so that it says nothing at "
            "all. It should turn by one *radian* a token.",
        ),
        Mistake("counted from zero", sinusoidal_by(places=counted_from_zero), COUNTED_FROM_ZERO),
        Mistake("padding before zero", sinusoidal_by(places=lambda positions: positions), PADDING_TURNED),
        Mistake("base ignored", sinusoidal_by(lambda d, base: 1e4 ** (-torch.arange(0, d, 2) / d)), BASE_FIXED),
        Mistake("no batch", sinusoidal_for_one_text, NO_BATCH_OF_POSITIONS),
        Mistake(
            "odd width accepted",
            sinusoidal_any_width,
            "An odd width leaves a sine without its cosine. Do not cut it off without a word: raise a ValueError that "
            "names `d_model` and its value.",
        ),
    ),
)
