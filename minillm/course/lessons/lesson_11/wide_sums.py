r"""Find the bug: a sum that does not fit."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def sum_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    t, c, r = draw.sizes(3, 2, 6)
    yield (_codes(draw, t, c, 3), _codes(draw, r, c, 3)), {}  # small: the bug hides
    for n_columns in (draw.size(8, 12), draw.size(30, 60)):
        t, r = draw.sizes(2, 2, 6)
        yield (_codes(draw, t, n_columns, 127), _codes(draw, r, n_columns, 127)), {}
    yield (_codes(draw, 1, 7, 127), _codes(draw, 4, 7, 127)), {}
    n_columns = draw.size(1400, 1600)
    large = [draw.integers(120, 127, n_rows, n_columns).to(torch.int8) for n_rows in (4, 6)]
    yield (large[0], large[1]), {}  # sums beyond 2**24
    yield (-large[0][:, :1100], large[1][:, :1100]), {}
    yield (torch.full((2, draw.size(600, 700)), -128, dtype=torch.int8),) * 2, {}


def _codes(draw: Draw, n_rows: int, n_columns: int, reach: int) -> Tensor:
    return draw.integers(-reach, reach, n_rows, n_columns).to(torch.int8)


def python_sums(x_int8: Tensor, q_weight: Tensor) -> Tensor:
    r"""Python's whole numbers have no end."""
    rows = q_weight.tolist()
    sums = [[sum(a * b for a, b in zip(token, row, strict=True)) for row in rows] for token in x_int8.tolist()]
    return torch.tensor(sums, dtype=torch.int32)


def summed_as(dtype: torch.dtype, result: torch.dtype | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    r"""The product with both matrices cast to a dtype first, and the result to another."""

    def function(x_int8: Tensor, q_weight: Tensor) -> Tensor:
        return (x_int8.to(dtype) @ q_weight.to(dtype).T).to(result or torch.int32)

    return function


def narrow_products(x_int8: Tensor, q_weight: Tensor) -> Tensor:
    return torch.stack([(x_int8 * row).sum(-1, dtype=torch.int32) for row in q_weight], dim=-1)


INT8_MATMUL = Exercise(
    id="inference.quantization.w8a8.int8_matmul",
    lesson="11",
    title="Find the bug",
    task="Weights and activations are both whole numbers now, `q_weight` (R, C) and `x_int8` (T, C), and somebody "
    "wrote their product, (T, R) in int32:\n\n```python\n"
    "def int8_matmul(x_int8, q_weight):\n"
    "    return (x_int8 @ q_weight.T).to(torch.int32)\n"
    "```\n\n"
    "It passed its tests, with numbers from -3 to 3. The cell above has shown what it does to a real layer. Say in a "
    "sentence how many bits a product of two int8 numbers needs, and a sum of a thousand of them; then mend the "
    "function. The sums must be exact, for a thousand columns and more, also for codes of -128.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=116,
    hints=(
        "In which dtype does `x_int8 @ q_weight.T` give its result, before anything is cast? Try 100 times 100 with "
        "two int8 tensors.",
        "A cast at the end cannot bring back what did not fit before. Where must it stand?",
        "A float can serve, as long as it holds every whole number up to the largest sum: float32 does up to 2^24, and "
        "1600 products of 127 * 127 are more. int32, int64 and float64 go further.",
    ),
    cases=sum_cases,
    oracle=python_sums,
    other_style=summed_as(torch.float64),
    tolerance=Tolerance(0.0, 0.0, "whole numbers"),
    mistakes=(
        Mistake(
            "still in 8 bits",
            summed_as(torch.int8),
            "The bug is still there: products and sums are kept in int8, where 127 + 1 is -128. Casting the result "
            "comes too late; cast before multiplying.",
        ),
        Mistake(
            "products in 8 bits",
            narrow_products,
            "You sum in int32, but the products are still int8: 100 * 100 comes out as 16. A product of two 8-bit "
            "numbers needs 16 bits; cast before multiplying.",
        ),
        Mistake(
            "sums in 16 bits",
            summed_as(torch.int16),
            "16 bits hold one product, up to 16384, but hardly a sum: int16 ends at 32767, and a third large product "
            "wraps round. A sum of a thousand needs 10 bits more.",
        ),
        Mistake(
            "limited",
            lambda x_int8, q_weight: summed_as(torch.int32)(x_int8, q_weight).clamp(-128, 127),
            "You cut the sums to what int8 holds. They are to be scaled back to floats, so their size is what counts: "
            "keep 32 bits.",
        ),
        Mistake(
            "float16",
            summed_as(torch.float16),
            "float16 ends at 65504 and holds whole numbers exactly only up to 2048. Five large products are beyond it.",
        ),
        Mistake(
            "bfloat16",
            summed_as(torch.bfloat16),
            "bfloat16 reaches far enough, but has 8 bits of precision: your sums are rounded to two or three digits.",
        ),
        Mistake(
            "float32 in one piece",
            summed_as(torch.float32),
            "Almost: float32 holds every whole number up to 2^24 = 16777216, and beyond that only every second. Some "
            "thousand large products get there. Take a wider dtype, or add in pieces of 1024 columns.",
        ),
        Mistake(
            "another dtype",
            summed_as(torch.int64, torch.int64),
            "The sums are right, but of another dtype than int32.",
        ),
        Mistake(
            "turned round",
            lambda x_int8, q_weight: summed_as(torch.int32)(q_weight, x_int8),
            "You have the two matrices the other way round: tokens are the rows of the result, outputs its columns.",
        ),
    ),
)
