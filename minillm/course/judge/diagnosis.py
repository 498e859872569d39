r"""Put into words what is wrong with a function that makes none of the exercise's named mistakes."""

import inspect
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minillm.course.judge.compare import Difference
from minillm.course.judge.picture import number_table, one_line, tensor_difference

if TYPE_CHECKING:
    from minillm.course.exercise import Exercise
    from minillm.course.judge.judging import Case, Outcome

PASSED = "passed"
NOT_ATTEMPTED = "not attempted yet"
# What is told first when several cases fail in different ways: the most basic thing.
ORDER = ("endless", "error", "none", "type", "keys", "length", "shape", "dtype", "nan", "values", "mutated")
RANK = {kind: i for i, kind in enumerate(ORDER)}
LONGEST_PRINT = 600  # characters of the learner's own output that are shown


def call_line(exercise: "Exercise") -> str:
    r"""How the function is called.

    Args:
        exercise: whose function.
    Returns: name and parameters with defaults, without annotations.
    """
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in exercise.parameters.parameters.values()]
    return f"{exercise.name}{inspect.Signature(plain)}"


def not_a_function(exercise: "Exercise", value: Any) -> str:
    r"""Say that the name holds something else.

    Args:
        exercise: what was asked.
        value: what the name holds.
    Returns: one or two sentences.
    """
    if isinstance(value, ModuleType):
        return f"{exercise.name} is a module here: an import has taken the name. Run the cell with your function again."
    return f"{exercise.name} is {_article(value)}, not a function. Define it with `def {call_line(exercise)}:`."


def wrong_signature(exercise: "Exercise", function: Callable[..., Any]) -> str:
    r"""Say that the function cannot be called with the arguments it is meant to take.

    Args:
        exercise: what was asked.
        function: the learner's.
    Returns: both signatures.
    """
    return (
        f"It cannot be called the way the exercise needs it.\n"
        f"expected: {call_line(exercise)}\nyours:    {exercise.name}{inspect.signature(function)}"
    )


def describe(
    exercise: "Exercise", function: Callable[..., Any], case: "Case", outcome: "Outcome", difference: Difference
) -> str:
    r"""Describe one failing case: the inputs, expected and got.

    Args:
        exercise: what was asked.
        function: the learner's.
        case: the failing case.
        outcome: what the function did on it.
        difference: the first difference from the right value.
    Returns: a few lines.
    """
    lines = [f"With {_inputs(exercise, case)}:"]
    if difference.kind in ("values", "nan") and isinstance(difference.expected, Tensor):
        lines += tensor_difference(difference.expected, difference.got, exercise.tolerance)
    elif difference.kind == "error" and isinstance(difference.expected, BaseException):
        lines.append(f"expected: {type(difference.expected).__name__}, because this input must be refused")
        lines.append(f"yours:    {one_line(difference.got)}")
    elif difference.kind == "error":
        lines.append(f"{type(outcome.value).__name__}: {_first_line(outcome.value)}")
        lines += _line_of_error(function, outcome.value)
    elif difference.kind == "dtype":
        lines += [f"expected dtype: {difference.expected.dtype}", f"your dtype:     {difference.got.dtype}"]
    elif difference.kind == "shape":
        lines += [
            f"expected shape: {tuple(difference.expected.shape)}",
            f"your shape:     {tuple(difference.got.shape)}",
        ]
    elif difference.kind == "mutated":
        lines.append(f"changed:  {', '.join(_argument(exercise, key) for key in outcome.mutated)}")
    elif difference.kind != "endless":
        lines += [f"expected: {one_line(difference.expected)}", f"yours:    {one_line(difference.got)}"]
    if outcome.printed.strip():
        lines += ["", "It printed:", outcome.printed.strip()[:LONGEST_PRINT]]
    return "\n".join(lines)


def headline(exercise: "Exercise", outcome: "Outcome", difference: Difference) -> str:
    r"""Say in a sentence or two what is the matter in general, and its usual cause.

    Args:
        exercise: what was asked.
        outcome: what the function did.
        difference: the first difference from the right value.
    Returns: the sentences.
    """
    expected, got = difference.expected, difference.got
    at = f" at {difference.place}" if difference.place else ""
    if difference.kind == "endless":
        return f"It was stopped after {exercise.seconds:g} seconds. Is there a loop whose end is never reached?"
    if difference.kind == "error":
        refused = isinstance(expected, BaseException)
        return "It does not refuse an input that it must refuse." if refused else "It stops with an error."
    if difference.kind == "none":
        return f"It gives None{at}. Is there a `return` on every way out?"
    if difference.kind == "type":
        return f"It gives {_article(got)}{at}, not {_article(expected)}."
    if difference.kind == "keys":
        missing, extra = [k for k in expected if k not in got], [k for k in got if k not in expected]
        return f"The keys{at} are not the ones asked for: missing {missing}, too many {extra}."
    if difference.kind == "length":
        return f"The result{at} has {len(got)} parts, not {len(expected)}."
    if difference.kind == "shape":
        return f"The shape{at} is not right."
    if difference.kind == "dtype":
        return f"The shape{at} is right, the dtype is not. Does something on the way change it?"
    if difference.kind == "nan":
        share = float((got.isnan() & ~expected.isnan()).double().mean())
        return (
            f"{share:.0%} of the numbers{at} are NaN where none belongs. The usual causes: 0/0, inf - inf, or a row "
            f"that is "
            f"-inf throughout before a softmax."
        )
    if difference.kind == "mutated":
        return (
            "The result is right, but the function changes its inputs, and whoever called it will be surprised. Avoid "
            "in-place operations (names that end in _, +=, x[...] = ...) on an argument."
        )
    if isinstance(got, Tensor):
        return f"Shape and dtype{at} are right, the numbers are not."
    return f"The value{at} is wrong."


def _inputs(exercise: "Exercise", case: "Case") -> str:
    names = list(exercise.parameters.parameters)
    named = [(names[i] if i < len(names) else f"argument {i + 1}", value) for i, value in enumerate(case.args)]
    return ", ".join(f"{name} {_brief(value)}" for name, value in named + list(case.kwargs.items()))


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.numel() <= 4 and value.ndim <= 1:
            return f"= {number_table(value)}"
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, torch.Generator):
        return "a generator"
    if callable(value):
        return "a function"
    return f"= {one_line(value)}"


def _argument(exercise: "Exercise", key: int | str) -> str:
    names = list(exercise.parameters.parameters)
    return names[key] if isinstance(key, int) and key < len(names) else str(key)


def _article(value: Any) -> str:
    name = "tensor" if isinstance(value, Tensor) else type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "(no message)").splitlines()[0]


def _line_of_error(function: Callable[..., Any], error: BaseException) -> list[str]:
    own = getattr(inspect.unwrap(function), "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if own is not None and f.filename == own.co_filename]
    if not frames:
        return []
    return [f"in line {frames[-1].lineno}: {frames[-1].line}".rstrip(": ")]
