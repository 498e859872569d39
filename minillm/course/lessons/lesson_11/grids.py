r"""Numbers that lie clear of the borders between two codes: no order of computing rounds them to another."""

import torch
from torch import Tensor

from minillm.course.judge.draw import Draw

JITTER = 0.4  # of a step; the border between two codes is at 0.5


def numbers_near_codes(draw: Draw, n_rows: int, n_columns: int, step: float | None = None) -> Tensor:
    r"""Rows whose absmax codes are known: whole steps and a bit, and one number of exactly 127 steps.

    Args:
        draw: of the exercise.
        n_rows: R; the number of 127 steps is negative in every second row.
        n_columns: C, at least 2.
        step: of all rows; None draws one a row.
    Returns: (R, C), float64.
    """
    codes = draw.integers(-126, 126, n_rows, n_columns) + draw.integers(-400, 400, n_rows, n_columns) * (JITTER / 400)
    places = draw.integers(0, n_columns - 1, n_rows)
    codes[torch.arange(n_rows), places] = torch.tensor([127.0, -127.0]).repeat(n_rows)[:n_rows]
    steps = draw.integers(200, 2000, n_rows, 1) / 50000 if step is None else torch.full((n_rows, 1), step)
    return codes.double() * steps


def exact_near_codes(draw: Draw, n_rows: int, n_columns: int, step: float) -> Tensor:
    r"""The same with positive numbers that half precision holds exactly: whole steps, and whole steps and a quarter.

    Args:
        draw: of the exercise.
        n_rows: R.
        n_columns: C, at least 2.
        step: a power of two.
    Returns: (R, C), float16.
    """
    codes = draw.integers(0, 126, n_rows, n_columns) + draw.integers(0, 1, n_rows, n_columns) / 4
    codes[torch.arange(n_rows), draw.integers(0, n_columns - 1, n_rows)] = 127.0
    return (codes * step).half()


def numbers_in_groups(draw: Draw, n_rows: int, n_columns: int, group_size: int) -> Tensor:
    r"""Rows in groups, each from a lowest number up to one 15 steps above it, both of them there.

    Args:
        draw: of the exercise.
        n_rows: R.
        n_columns: C.
        group_size: at least 2; divides C.
    Returns: (R, C), float64.
    """
    shape = (n_rows, n_columns // group_size)
    codes = draw.integers(1, 14, *shape, group_size) + draw.integers(-400, 400, *shape, group_size) * (JITTER / 400)
    first = draw.integers(0, group_size - 1, *shape, 1)
    codes = codes.scatter(-1, first, 0.0).scatter(-1, (first + 1) % group_size, 15.0)
    lows, steps = draw.normal(*shape, 1, dtype=torch.float64), draw.integers(200, 2000, *shape, 1) / 5000
    return (codes * steps + lows).reshape(n_rows, n_columns)
