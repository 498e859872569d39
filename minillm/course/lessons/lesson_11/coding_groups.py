r"""Groups in 4 bits."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_11.grids import numbers_in_groups

Coded = tuple[Tensor, Tensor, Tensor]


def nibble_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[1.0, 2.5, 1.2, 1.0, -3.0, 0.0, -1.0, -1.6]]), 4), {}
    yield (numbers_in_groups(draw, 3, 64, 32).float(),), {}
    for group_size, n_groups in ((4, 3), (draw.size(5, 8), 2), (draw.size(3, 6), 4)):
        n_columns = group_size * n_groups
        yield (numbers_in_groups(draw, draw.size(2, 5), n_columns, group_size).float(), group_size), {}
    yield (numbers_in_groups(draw, 2, 12, 6), 6), {}
    yield (10 + numbers_in_groups(draw, 2, 12, 4).float(), 4), {}  # far from 0
    equal = numbers_in_groups(draw, 2, 10, 5).float()
    equal[1, 5:] = draw.size(2, 9) / 4
    yield (equal, 5), {}
    whole = draw.integers(1, 14, 3, 8) + draw.integers(0, 1, 3, 8) / 4
    whole[:, 0], whole[:, 3], whole[:, 4], whole[:, 7] = 0.0, 15.0, 15.0, 0.0
    yield ((whole - draw.size(3, 9)).bfloat16(), 4), {}
    yield (draw.normal(3, 10), 4), {}  # to be refused, as the next
    yield (draw.normal(3, 10), -5), {}


def group_after_group(weight: Tensor, group_size: int = 32) -> Coded:
    r"""Python numbers, one group after another."""
    if group_size < 1 or weight.shape[1] % group_size:
        raise ValueError(f"group_size={group_size} does not divide a row of {weight.shape[1]}")
    codes, scales, lows = [], [], []
    for row in weight.double().tolist():
        groups = [row[start : start + group_size] for start in range(0, len(row), group_size)]
        lows.append([min(group) for group in groups])
        scales.append([(max(group) - min(group)) / 15 for group in groups])
        codes.append([round((value - low) / scale) if scale else 0
                      for group, low, scale in zip(groups, lows[-1], scales[-1], strict=True) for value in group])
    return (torch.tensor(codes, dtype=torch.uint8), torch.tensor(scales, dtype=torch.float32),
            torch.tensor(lows, dtype=torch.float32))


def coded_with(
    view: Callable[[Tensor, int], Tensor] = lambda w, g: w.unflatten(1, (-1, g)),
    back: Callable[[Tensor], Tensor] = lambda codes: codes.flatten(1),
    grid: Callable[[Tensor, Tensor], Coded] = lambda low, high: ((high - low) / 15, low, low),
    whole: Callable[[Tensor], Tensor] = torch.round,
    last: int = 15,
    dtype: torch.dtype | None = None,
    rest: Callable[[Tensor, int], Tensor] | None = None,
) -> Callable[..., Coded]:
    r"""Groups in which one thing is done in another way; grid(low, high) gives step, origin, and what is returned."""

    def function(weight: Tensor, group_size: int = 32) -> Coded:
        if group_size < 1 or (weight.shape[1] % group_size and rest is None):
            raise ValueError(f"group_size={group_size} does not divide a row of {weight.shape[1]}")
        whole_groups = weight.float() if rest is None else rest(weight.float(), group_size)
        groups = view(whole_groups, group_size)
        step, origin, kept = grid(groups.amin(-1), groups.amax(-1))
        codes = whole((groups - origin[..., None]) / torch.where(step == 0, 1.0, step)[..., None]).clamp(0, last)
        return back(codes).to(dtype or torch.uint8), step, kept

    return function


def symmetric_grid(low: Tensor, high: Tensor) -> Coded:
    step = torch.maximum(low.abs(), high.abs()) / 7
    return step, -8 * step, -8 * step


def with_zero_inside(low: Tensor, high: Tensor) -> Coded:
    low, high = low.clamp(max=0), high.clamp(min=0)
    return (high - low) / 15, low, low


def scales_upside_down(weight: Tensor, group_size: int = 32) -> Coded:
    codes, scales, lows = coded_with()(weight, group_size)
    return codes, 1 / scales, lows


INT4_GROUPS = Exercise(
    id="inference.quantization.int4.int4_groups",
    lesson="11",
    title="Groups in 4 bits",
    task="16 codes are few, so each group of `group_size` neighbours in a row gets a grid of its own: code 0 stands "
    "for the group's smallest number, 15 for its largest, the others lie evenly between. Return the codes (R, C) in "
    "uint8, one in each byte for now; the steps, `scales`, (R, C / group_size); and the smallest numbers, `lows`, of "
    "the same shape; both in float32. A number comes back as code * scale + low. In a group of equal numbers the scale "
    "is 0 and so are the codes. A group size that is less than 1 or does not divide C must be refused with a "
    "ValueError.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=113,
    hints=(
        "The group 1.0, 2.5, 1.2, 1.0 by hand: what is the step between two codes? From 0 to 15, how many steps are "
        "there?",
        "Make a third axis: (R, groups, group_size), with the group's numbers along the last. `unflatten`, `view` or "
        "einops do it, and the smallest and largest are then an `amin` and an `amax`.",
        "Subtract the low, divide by the scale, round. Where a scale is 0, divide by something else.",
    ),
    cases=nibble_cases,
    oracle=group_after_group,
    other_style=coded_with(),
    tolerance=Tolerance(2e-6, 1e-6, "a difference and a division in float32"),
    mistakes=(
        Mistake(
            "16 steps",
            coded_with(grid=lambda low, high: ((high - low) / 16, low, low)),
            "You divide the range by 16. Between 16 codes there are 15 steps: your largest number would need code 16, "
            "and comes back one step too small.",
        ),
        Mistake(
            "code 16",
            coded_with(grid=lambda low, high: ((high - low) / 16, low, low), last=16),
            "You divide the range by 16, and the largest number gets code 16: that is a fifth bit. Packed in four, it "
            "becomes 0, the group's smallest number. Between 16 codes there are 15 steps.",
        ),
        Mistake(
            "symmetric",
            coded_with(grid=symmetric_grid),
            "You lay the codes evenly around 0. Where a group lies to one side of it, half of the 16 codes stand for "
            "numbers that are not there. The codes reach from the smallest number to the largest.",
        ),
        Mistake(
            "zero always inside",
            coded_with(grid=with_zero_inside),
            "You widen the range until it holds 0. That is needed where 0 must come back exactly (padding, ReLU); here "
            "`low` may be any number, and a group far from 0 would lose most of its codes.",
        ),
        Mistake(
            "low not subtracted",
            coded_with(grid=lambda low, high: ((high - low) / 15, torch.zeros_like(low), low)),
            "The codes are the numbers over the step, without the low taken off first: negative numbers all become 0. "
            "Code 0 is to stand for the group's smallest number.",
        ),
        Mistake(
            "the largest for the lowest",
            coded_with(grid=lambda low, high: ((high - low) / 15, low, high)),
            "You return the largest numbers in place of the smallest. Added to code * scale, they shift each group by "
            "its whole range.",
        ),
        Mistake(
            "scale upside down",
            scales_upside_down,
            "Your scales are codes per unit, 15 / range. What is stored is the size of a step: range / 15.",
        ),
        Mistake(
            "cut, not rounded",
            coded_with(whole=torch.floor),
            "You cut off the fraction: `.to(torch.uint8)` does that. Every weight becomes smaller, by half a step on "
            "average. Round first.",
        ),
        Mistake(
            "whole rows",
            coded_with(view=lambda w, g: w[:, None]),
            "You use one grid for the whole row and leave `group_size` aside. With 16 codes, one large weight in a row "
            "of thousands leaves few of them for the others.",
        ),
        Mistake(
            "every so many",
            coded_with(view=lambda w, g: w.unflatten(1, (g, -1)).transpose(1, 2), back=lambda codes:
                       codes.transpose(1, 2).flatten(1)),
            "Your groups are combs: every so-many-th number of the row. A group is `group_size` *neighbours*, that lie "
            "side by side in memory: the sizes in your view are swapped.",
        ),
        Mistake(
            "codes not in bytes",
            coded_with(dtype=torch.int64),
            "The codes are right, but int64 takes eight bytes for each, where four bits would do. Cast them to uint8.",
        ),
        Mistake(
            "rest dropped",
            coded_with(rest=lambda w, g: w[:, : w.shape[1] // g * g]),
            "Where the group size does not divide the row, you drop its end: those weights are gone, and nobody hears "
            "of it. Raise a ValueError.",
        ),
    ),
)
