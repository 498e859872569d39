r"""Find the first difference between the value a function gave and the value it should give."""

import copy
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHANCE = (torch.Generator, random.Random)  # what a function draws random numbers from


@dataclass(frozen=True)
class Tolerance:
    r"""How far a number may be from the expected one, and why that far.

    Half-precision answers are allowed four units in the last place in any case.

    Args:
        relative: share of the expected number.
        absolute: added to it.
        reason: why not smaller.
    """

    relative: float = 1e-5
    absolute: float = 1e-6
    reason: str = "float32 sums taken in another order"


@dataclass(frozen=True)
class Difference:
    r"""One difference: its kind, where it is in the value, and what is there.

    Args:
        kind: "none", "type", "keys", "length", "shape", "dtype", "nan" or "values".
        place: "", or such as "[0]" or "['embedding']" in a tuple, list or dict.
        expected: the part of the expected value at that place.
        got: the part of the function's value there.
    """

    kind: str
    place: str
    expected: Any
    got: Any


def first_difference(expected: Any, got: Any, tolerance: Tolerance, place: str = "") -> Difference | None:
    r"""Compare two values of any nesting of tensors, numbers, strings, lists, tuples and dicts.

    Two sources of chance always agree: one that has been used is no other argument than before. What was drawn from it
    is in the values.

    Args:
        expected: the right value.
        got: the function's value.
        tolerance: for floating-point numbers; all else must be equal.
        place: where in the whole value these two are.
    Returns: the first difference, the outermost first, or None if they agree.
    """
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        return _tensor_difference(expected, got, tolerance, place)
    if not _same_type(expected, got):
        return Difference("none" if got is None else "type", place, expected, got)
    if isinstance(expected, CHANCE):
        return None
    if isinstance(expected, dict):
        if set(expected) != set(got):
            return Difference("keys", place, list(expected), list(got))
        parts = [(f"{place}[{key!r}]", expected[key], got[key]) for key in expected]
    elif isinstance(expected, (list, tuple)):
        if len(expected) != len(got):
            return Difference("length", place, expected, got)
        parts = [(f"{place}[{i}]", a, b) for i, (a, b) in enumerate(zip(expected, got, strict=True))]
    else:
        return None if _same_scalar(expected, got, tolerance) else Difference("values", place, expected, got)
    found = (first_difference(a, b, tolerance, where) for where, a, b in parts)
    return next((difference for difference in found if difference), None)


def wrong_elements(expected: Tensor, got: Tensor, tolerance: Tolerance) -> Tensor:
    r"""Mark the elements of `got` that are further from `expected` than the tolerance allows.

    Two NaN at one place agree, and so do two equal infinities.

    Args:
        expected: any shape.
        got: the same shape.
        tolerance: how far is allowed.
    Returns: bool, the same shape, True where they differ.
    """
    if not expected.dtype.is_floating_point:
        return expected != got
    unit = torch.finfo(expected.dtype).eps
    relative = max(tolerance.relative, 4 * unit)
    e, g = expected.to(torch.float64), got.to(torch.float64)
    near = (g - e).abs() <= tolerance.absolute + relative * e.abs()
    same = (g == e) | (g.isnan() & e.isnan())
    return ~torch.where(e.isfinite() & g.isfinite(), near, same)


def copy_value(value: Any) -> Any:
    r"""Copy tensors, lists, tuples, dicts and sets, and sources of chance in their present state.

    Args:
        value: an argument of an exercise's function; a function or a module is handed on as it is.
    Returns: the copy; a copied tensor is a leaf and requires gradients if the original does.
    """
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, random.Random):
        return copy.copy(value)
    if isinstance(value, dict):
        return {key: copy_value(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(copy_value(part) for part in value))
    if isinstance(value, (list, tuple, set)):
        return type(value)(copy_value(part) for part in value)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    r"""Walk through every tensor in a value.

    Args:
        value: any nesting of lists, tuples and dicts.
    Returns: an iterator over the tensors, outermost first.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


def _tensor_difference(expected: Tensor, got: Tensor, tolerance: Tolerance, place: str) -> Difference | None:
    expected, got = expected.detach(), got.detach().as_subclass(Tensor)
    if expected.shape != got.shape:
        return Difference("shape", place, expected, got)
    if expected.dtype != got.dtype:
        return Difference("dtype", place, expected, got)
    if expected.layout == got.layout == torch.strided and torch.equal(expected, got):  # nearly always; and quickly seen
        return None
    if expected.dtype.is_floating_point and bool((got.isnan() & ~expected.isnan()).any()):
        return Difference("nan", place, expected, got)
    wrong = wrong_elements(expected, got, tolerance)
    return Difference("values", place, expected, got) if bool(wrong.any()) else None


def _same_type(expected: Any, got: Any) -> bool:
    if isinstance(expected, bool) or isinstance(got, bool):
        return isinstance(expected, bool) and isinstance(got, bool)
    if isinstance(expected, float):
        return isinstance(got, (int, float))
    for kind in (int, str, bytes, tuple, list, dict, set):
        if isinstance(expected, kind):
            return isinstance(got, kind)
    return type(expected) is type(got)


def _same_scalar(expected: Any, got: Any, tolerance: Tolerance) -> bool:
    if not isinstance(expected, float):
        return bool(expected == got)
    if not (math.isfinite(expected) and math.isfinite(got)):
        return expected == got or (math.isnan(expected) and math.isnan(got))
    return abs(expected - got) <= tolerance.absolute + tolerance.relative * abs(expected)
