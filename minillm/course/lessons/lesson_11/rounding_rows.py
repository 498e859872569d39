r"""Rows in 8 bits."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_11.grids import exact_near_codes, numbers_near_codes

Coded = tuple[Tensor, Tensor]


def row_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[0.5, -2.54, 1.27], [0.0, 0.0, 0.0]]),), {}
    for n_rows in (4, 7):
        yield (numbers_near_codes(draw, n_rows, draw.size(5, 9)).float(),), {}
    b, t, c = draw.sizes(3, 2, 6)
    yield (numbers_near_codes(draw, b * t, c).float().view(b, t, c),), {}
    yield (numbers_near_codes(draw, 3, 6),), {}
    yield (-numbers_near_codes(draw, 3, 5).abs().float(),), {}  # negative throughout
    yield (exact_near_codes(draw, 3, 6, 2.0**-5),), {}
    with_zeros = numbers_near_codes(draw, 3, 5).float()
    with_zeros[1] = 0.0
    yield (with_zeros,), {}


def one_number_at_a_time(weight: Tensor) -> Coded:
    r"""Each row as a list of Python numbers."""
    flat = weight.double().reshape(-1, weight.shape[-1]).tolist()
    steps = [max(abs(value) for value in row) / 127 for row in flat]
    codes = [[round(value / step) if step else 0 for value in row] for row, step in zip(flat, steps, strict=True)]
    scales = torch.tensor(steps, dtype=torch.float32).reshape(*weight.shape[:-1], 1)
    return torch.tensor(codes, dtype=torch.int8).reshape(weight.shape), scales


def rounded_with(
    reach: Callable[[Tensor], Tensor] = lambda w: w.abs().amax(-1, keepdim=True),
    steps: int = 127,
    whole: Callable[[Tensor], Tensor] = torch.round,
    finish: Callable[[Tensor, Tensor, Tensor], Coded] = lambda codes, scale, w: (codes.to(torch.int8), scale),
    limit: bool = True,
) -> Callable[[Tensor], Coded]:
    r"""Absmax rounding in which one thing is done in another way."""

    def function(weight: Tensor) -> Coded:
        exact = weight.float()
        scale = reach(exact) / steps
        codes = whole(exact / torch.where(scale == 0, 1.0, scale))
        codes = codes.clamp(-128, 127) if limit else codes.to(torch.int64)
        return finish(codes, scale, weight)

    return function


def from_lowest_to_highest(weight: Tensor) -> Coded:
    low, high = weight.float().amin(-1, keepdim=True), weight.float().amax(-1, keepdim=True)
    scale = (high - low) / 255
    codes = ((weight.float() - low) / torch.where(scale == 0, 1.0, scale)).round() - 128
    return codes.to(torch.int8), scale


QUANTIZE_ROWS = Exercise(
    id="inference.quantization.rows.quantize_rows",
    lesson="11",
    title="A row in 8 bits",
    task="Give every row, that is whatever lies along the last axis, a scale: its largest absolute number / 127, in "
    "float32. Then each number becomes the whole number of scales that is nearest to it, in int8. Return both: the "
    "codes in the shape of `weight`, and the scales with a last axis of size 1, so that codes * scales gives the row "
    "again. `weight` may have any number of axes and any float dtype: compute in float32. A row of zeros has the scale "
    "0 and codes of 0.",
    difficulty=1,
    minutes=10,
    points=2,
    seed=111,
    hints=(
        "Take the row 0.5, -2.54, 1.27 by hand. What is its scale, and which whole numbers stand for the three?",
        "`amax(dim=-1, keepdim=True)` keeps the axis. The largest *absolute* number may be a negative one.",
        "`.to(torch.int8)` cuts the fraction off; `round()` does not. And what does a row of zeros divide by? "
        "`torch.where` chooses between two numbers.",
    ),
    cases=row_cases,
    oracle=one_number_at_a_time,
    other_style=rounded_with(),
    tolerance=Tolerance(1e-6, 1e-9, "a scale is one division in float32"),
    mistakes=(
        Mistake(
            "one scale for all",
            rounded_with(reach=lambda w: w.abs().amax().expand(*w.shape[:-1], 1)),
            "All rows have the scale of the largest number anywhere. One large weight then costs every row its "
            "precision; a scale a row costs four bytes.",
        ),
        Mistake(
            "scales of the columns",
            lambda weight: rounded_with(reach=lambda w: w.abs().amax(-2, keepdim=True))(weight),
            "You take the largest number of each column. A row is what lies along the *last* axis, and its scale must "
            "stand outside of the sum over the columns.",
        ),
        Mistake(
            "axis lost",
            rounded_with(finish=lambda codes, scale, w: (codes.to(torch.int8), scale[..., 0])),
            "The scales have lost their last axis: codes * scales would then multiply along the wrong one, or not at "
            "all. Keep it, with size 1.",
        ),
        Mistake(
            "cut, not rounded",
            rounded_with(whole=torch.trunc),
            "You cut the fraction off: `.to(torch.int8)` does that. Every number moves towards 0, by up to a whole "
            "step; rounded, it moves either way, by half a step at most.",
        ),
        Mistake(
            "rounded down",
            rounded_with(whole=torch.floor),
            "You round down: every number becomes smaller, by half a step on average, and in a sum of many these "
            "errors add up in place of cancelling. Round to the nearest.",
        ),
        Mistake(
            "128 steps",
            rounded_with(steps=128),
            "You divide by 128. int8 ends at 127, so your largest positive numbers have no code of their own and are "
            "cut. 127 steps to either side make it symmetric.",
        ),
        Mistake(
            "wrapped round",
            rounded_with(steps=128, limit=False),
            "With 128 steps, the largest positive number gets the code 128, which int8 does not have: it comes out as "
            "-128. The row's most important number has changed its sign.",
        ),
        Mistake(
            "largest, not largest absolute",
            rounded_with(reach=lambda w: w.amax(-1, keepdim=True)),
            "You take the largest number, and some rows have a larger negative one: its code does not fit, or the "
            "scale itself is negative. Take absolute values first.",
        ),
        Mistake(
            "from lowest to highest",
            from_lowest_to_highest,
            "You spread the codes from the smallest number to the largest. That form needs a zero point to be stored "
            "as well; here code 0 stands for 0.0, and the codes reach equally far to both sides.",
        ),
        Mistake(
            "scale upside down",
            rounded_with(finish=lambda codes, scale, w: (codes.to(torch.int8), 1 / scale)),
            "Your scale is what the numbers were multiplied by. Return what brings them back: largest / 127, so that "
            "codes * scales is the row.",
        ),
        Mistake(
            "codes still floats",
            rounded_with(finish=lambda codes, scale, w: (codes.to(w.dtype), scale)),
            "The codes are whole numbers, but still stored as floats: nothing has become smaller. Cast them to int8.",
        ),
        Mistake(
            "scales in the weight's dtype",
            rounded_with(finish=lambda codes, scale, w: (codes.to(torch.int8), scale.to(w.dtype))),
            "Your scales have the dtype of the weight. In float16 that rounds them, and with them the whole row; and "
            "those of small weights come near its smallest numbers. Keep float32: it is one number a row.",
        ),
    ),
)
