r"""Small drawings in characters: numbers side by side, and where two tensors differ."""

import math
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from minillm.course.judge.compare import Tolerance, wrong_elements

ROWS, COLUMNS = 5, 6  # of numbers that are shown
LONGEST = 90  # characters of a value on one line


def one_line(value: Any) -> str:
    r"""A value on one line, cut if it is long, without memory addresses.

    Args:
        value: anything.
    Returns: text.
    """
    if isinstance(value, Tensor):
        if value.numel() <= COLUMNS:
            return f"tensor {number_table(value.flatten())} of shape {tuple(value.shape)}"
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)) and not isinstance(value, str):
        parts = ", ".join(one_line(part) for part in value)
        text = f"({parts})" if isinstance(value, tuple) else f"[{parts}]"
    elif isinstance(value, (int, str, bytes, dict, set, type(None), torch.dtype)):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def number_table(values: Tensor) -> str:
    r"""A vector or a matrix as text, the corner of it if it is large.

    Args:
        values: (n,) or (n, m).
    Returns: one line for a vector, a line a row for a matrix.
    """
    if values.ndim < 2:
        row = values.reshape(-1)
        return "[" + " ".join(_number(x) for x in row[:COLUMNS].tolist()) + (" ...]" if len(row) > COLUMNS else "]")
    cells = [[_number(x) for x in row[:COLUMNS]] for row in values[:ROWS].tolist()]
    width = max((len(cell) for row in cells for cell in row), default=0)
    right = " ..." if values.shape[1] > COLUMNS else ""
    lines = [" ".join(cell.rjust(width) for cell in row) + right for row in cells]
    return "\n".join(lines + ["..."] * (values.shape[0] > ROWS))


def tensor_difference(expected: Tensor, got: Tensor, tolerance: Tolerance) -> list[str]:
    r"""Show two tensors of one shape side by side: the first matrix in which they differ, and where.

    Args:
        expected: the right tensor.
        got: the other.
        tolerance: which numbers count as equal.
    Returns: a few lines of text.
    """
    expected, got = expected.detach(), got.detach()
    wrong = wrong_elements(expected, got, tolerance)
    lines = [f"{int(wrong.sum())} of {wrong.numel()} numbers differ."]
    pattern = _pattern(expected, got, tolerance)
    if pattern:
        lines.append(pattern)
    where = ""
    if expected.ndim > 2:
        first = tuple(int(i) for i in wrong.nonzero()[0][:-2])
        where = "[" + ", ".join(map(str, first)) + "]"
        expected, got, wrong = expected[first], got[first], wrong[first]
    columns = [
        [f"expected{where}", *number_table(expected).splitlines()],
        [f"yours{where}", *number_table(got).splitlines()],
        ["x = differs", *_marks(wrong)],
    ]
    widths = [max(map(len, column)) for column in columns]
    for row in zip_longest(*columns, fillvalue=""):
        lines.append("   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return lines


def _marks(wrong: Tensor) -> list[str]:
    matrix = wrong.reshape(1, -1) if wrong.ndim < 2 else wrong
    return ["".join("x" if cell else "." for cell in row[: 4 * COLUMNS]) for row in matrix[:ROWS].tolist()]


def _pattern(expected: Tensor, got: Tensor, tolerance: Tolerance) -> str:
    r"""Recognise a simple relation that holds for all elements: a factor, an offset, another order."""
    if not expected.dtype.is_floating_point or expected.numel() < 4:
        return ""
    e, g = expected.to(torch.float64).flatten(), got.to(torch.float64).flatten()
    if not bool(e.isfinite().all() and g.isfinite().all()):
        return ""
    loose = Tolerance(10 * tolerance.relative, 10 * tolerance.absolute, tolerance.reason)
    if not bool(wrong_elements(e.sort().values, g.sort().values, loose).any()):
        return "They are the right numbers in another order: a transpose, or a reshape, in the wrong place?"
    strongest = int(e.abs().argmax())
    factor = float(g[strongest] / e[strongest]) if e[strongest] else 0.0
    if factor and not bool(wrong_elements(e * factor, g, loose).any()):
        return f"Every number is {factor:.4g} times the expected one."
    offset = float(g[strongest] - e[strongest])
    if not bool(wrong_elements(e + offset, g, loose).any()):
        return f"Every number is the expected one {'+' if offset > 0 else '-'} {abs(offset):.4g}."
    return ""


def _number(x: Any) -> str:
    if isinstance(x, float):
        return f"{x:.4g}" if math.isfinite(x) else str(x)
    return str(x)
