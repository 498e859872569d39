r"""The learner's own functions inside the package: your code becomes the model."""

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from minillm.course.catalogue import exercise_named, exercises
from minillm.course.exercise import Exercise
from minillm.course.portable import load_function, portable_source
from minillm.course.shelf import current_shelf
from minillm.course.tables import Table
from minillm.layers.paths import plain_path

_calls: Counter[str] = Counter()
_whose: dict[str, str] = {}
_only_here: dict[str, Callable[..., Any]] = {}  # passed, but with something in it that no file can hold
_depth = 0


def keep(exercise_id: str, function: Callable[..., Any]) -> str | None:
    r"""Keep a function for an exercise; check() does it with one that has passed.

    Args:
        exercise_id: which exercise.
        function: the learner's.
    Returns: None, or why it can be kept for this notebook only.
    """
    exercise = exercise_named(exercise_id)
    try:
        text = portable_source(exercise, function)
    except ValueError as error:
        _only_here[exercise.id] = function
        return str(error)
    _only_here.pop(exercise.id, None)
    current_shelf().keep_attempt(exercise.id, text)
    return None


def forget(exercise_id: str) -> None:
    r"""Go back to the course's function; the kept attempt is filed under a number.

    Args:
        exercise_id: which exercise.
    """
    _only_here.pop(exercise_id, None)
    current_shelf().file_attempt(exercise_named(exercise_id).id)


def own_function(exercise_id: str) -> Callable[..., Any] | None:
    r"""The learner's function for an exercise.

    A kept file that no longer runs is reported in a line, and counts as none.

    Args:
        exercise_id: which exercise.
    Returns: the function, or None.
    """
    exercise = exercise_named(exercise_id)
    if exercise.id in _only_here:
        return _only_here[exercise.id]
    text = current_shelf().attempt(exercise.id)
    if text is None:
        return None
    try:
        function = load_function(exercise, text, f"my {exercise.name}")
        problem = None if callable(function) else f"it defines no function {exercise.name}"
    except Exception as error:
        function, problem = None, f"{type(error).__name__}: {error}"
    if problem is None:
        return function
    print(f"Your {exercise.name} could not be loaded ({problem}). The course's own is used until you solve it again.")
    return None


@contextmanager
def active() -> Iterator[None]:
    r"""Inside this block the package calls the learner's functions, and every call is counted.

    Functions that the learner has not written stay the course's own, and are counted too. The parts take the plain
    path, since a fused kernel would pass the learner's code by. Everything is put back on leaving, whatever happens.

    Returns: a context manager.
    """
    global _depth
    if _depth == 0:
        _calls.clear()
        _whose.clear()
    before: list[tuple[Any, str, Any]] = []
    _depth += 1
    try:
        with plain_path():
            for exercise in exercises():
                module = importlib.import_module(exercise.module_name)
                before.append((module, exercise.name, getattr(module, exercise.name)))
                setattr(module, exercise.name, _counted(exercise))
            yield
    finally:
        _depth -= 1
        for module, name, function in reversed(before):
            setattr(module, name, function)


def table() -> Table:
    r"""Whose code ran in the last active() block, and how often.

    Returns: a row for each function that was called, or that is the learner's own.
    """
    shown = [exercise.id for exercise in exercises() if _calls[exercise.id] or _whose.get(exercise.id) == "yours"]
    return Table(("function", "whose code", "calls"), tuple((name, _whose[name], _calls[name]) for name in shown))


def _counted(exercise: Exercise) -> Callable[..., Any]:
    own = own_function(exercise.id)
    function = exercise.reference if own is None else own
    _whose[exercise.id] = "the course's" if own is None else "yours"

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        _calls[exercise.id] += 1
        return function(*args, **kwargs)

    counted.course_reference = exercise.reference  # type: ignore[attr-defined]
    return counted
