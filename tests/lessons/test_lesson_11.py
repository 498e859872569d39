r"""Lesson 11: the bug that is shown is the bug that is run, other right ways pass, layers run the learner's code."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minillm.course import mine, shelf
from minillm.course.catalogue import exercise_named
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_11.grids import exact_near_codes, numbers_in_groups, numbers_near_codes
from minillm.course.lessons.lesson_11.wide_sums import INT8_MATMUL
from minillm.inference import roofline
from minillm.inference.quantization import int4, int8_linear, outliers, rows, w8a8

USED = tuple(f"inference.quantization.{name}" for name in (
    "rows.quantize_rows", "int8_linear.int8_linear", "int4.int4_groups", "outliers.outlier_split", "w8a8.int8_matmul",
)) + ("inference.roofline.roofline_time",)  # fmt: skip


@pytest.fixture(autouse=True)
def empty_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())


def use_layers() -> None:
    r"""Every exercise's function, as the library calls it."""
    x, weight = torch.randn(3, 32), torch.randn(4, 32)
    q, scales = rows.quantize_rows(weight)
    int8_linear.int8_linear(x, q, scales)
    w8a8.w8a8_linear(x, q, scales)
    int4.int4_groups(weight)
    outliers.outlier_split(x, weight)
    roofline.roofline_time(1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("part", USED)
def test_layers_raise_where_a_part_of_the_learner_raises(part: str) -> None:
    with mine.active():
        use_layers()
    assert {name: calls for name, _, calls in mine.table().rows}[part] >= 1
    source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
    shelf.IN_MEMORY.keep_attempt(part, source)
    with pytest.raises(ArithmeticError, match="mine"), mine.active():
        use_layers()


def test_the_bug_that_is_shown_is_a_proved_mistake(fresh_seed: int) -> None:
    namespace: dict = {"torch": torch}
    exec(re.search(r"```python\n(.*?)```", INT8_MATMUL.task, re.DOTALL)[1], namespace)
    shown, proved = namespace["int8_matmul"], INT8_MATMUL.mistakes[0]
    verdict = INT8_MATMUL.judge(shown, fresh_seed)
    assert verdict.mistake == proved.name
    small, large = (list(INT8_MATMUL.cases(Draw(fresh_seed)))[i][0] for i in (0, 4))
    assert torch.equal(shown(*small), w8a8.int8_matmul(*small))  # which is why its tests passed
    assert not torch.equal(shown(*large), w8a8.int8_matmul(*large))


def kept_from_zero(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = weight.float().abs().amax(dim=-1, keepdim=True) / 127
    return (weight.float() / scales.clamp(min=1e-8)).round().to(torch.int8), scales


def restored_first(x: Tensor, q_weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    out = torch.nn.functional.linear(x.float(), q_weight.float() * scales.float(), None)
    return (out if bias is None else out + bias).to(x.dtype)


def viewed_in_groups(weight: Tensor, group_size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    if group_size < 1 or weight.shape[1] % group_size:
        raise ValueError("group_size")
    groups = weight.float().view(len(weight), -1, group_size)
    lows, highs = groups.min(dim=-1, keepdim=True).values, groups.max(dim=-1, keepdim=True).values
    scales = (highs - lows) / 15
    codes = ((groups - lows) / (scales + (scales == 0))).round().to(torch.uint8)
    return codes.view(weight.shape), scales.squeeze(-1), lows.squeeze(-1)


def picked_columns(x: Tensor, weight: Tensor, threshold: float = 6.0) -> Tensor:
    wide = (x.abs() > threshold).any(dim=0)
    (a, a_steps), (b, b_steps) = rows.quantize_rows(x[:, ~wide]), rows.quantize_rows(weight[:, ~wide])
    whole = (a.int() @ b.int().T).float() * a_steps * b_steps.T
    return (whole + x[:, wide].float() @ weight[:, wide].float().T).to(x.dtype)


def in_int32(x_int8: Tensor, q_weight: Tensor) -> Tensor:
    return x_int8.int() @ q_weight.int().T


OTHER_WAYS = dict(zip(USED, (kept_from_zero, restored_first, viewed_in_groups, picked_columns, in_int32), strict=False))


@pytest.mark.parametrize("part, function", list(OTHER_WAYS.items()))
def test_other_right_ways_pass(part: str, function: Callable, fresh_seed: int) -> None:
    for seed in range(fresh_seed, fresh_seed + 3):
        verdict = exercise_named(part).judge(function, seed)
        assert verdict.passed, verdict.message


def test_drawn_numbers_lie_clear_of_the_borders(fresh_seed: int) -> None:
    r"""No number is so near to the border of two codes that another order of computing could tip it over."""
    draw = Draw(fresh_seed)
    for x in (numbers_near_codes(draw, 6, 9), numbers_near_codes(draw, 6, 9, 0.02), exact_near_codes(draw, 6, 9, 0.25)):
        steps = x.double() / (x.double().abs().amax(-1, keepdim=True) / 127)
        assert float((steps - steps.round()).abs().max()) < 0.41 and bool((steps.abs().amax(-1) - 127 < 1e-9).all())
    groups = numbers_in_groups(draw, 5, 24, 6).view(5, 4, 6)
    lows = groups.amin(-1, keepdim=True)
    steps = (groups - lows) / ((groups.amax(-1, keepdim=True) - lows) / 15)
    assert float((steps - steps.round()).abs().max()) < 0.41
