r"""What a learner calls in a notebook: check, hint, solution, reset and progress."""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

from minillm.course import mine
from minillm.course.catalogue import exercise_named, exercises
from minillm.course.exercise import PACKAGE, Exercise
from minillm.course.judge.verdict import Verdict
from minillm.course.shelf import current_shelf
from minillm.course.source import solution_source, stub_source
from minillm.course.tables import Table

# The caller is the first frame of none of these; wrappers that check types stand in between when tests run.
BETWEEN = (PACKAGE, "jaxtyping", "beartype")
# What the learner last defined: after a failed check the name in the notebook holds the reference.
_last_seen: dict[str, Callable[..., Any]] = {}


def check(exercise_id: str) -> Callable[..., Any]:
    r"""Judge the function of that name in the notebook, say what is wrong with it, and give one to go on with.

    Args:
        exercise_id: the reference's path under minillm, such as "layers.sdpa.sdpa".
    Returns: the learner's function if it is right, else the course's own.
    """
    exercise = exercise_named(exercise_id)
    function, verdict = _look(exercise, _caller())
    if verdict is None:
        verdict = exercise.judge(function)
    shelf = current_shelf()
    if verdict.kind not in ("not attempted", "missing"):
        shelf.note(exercise.id, tries=1, passed=True if verdict.passed else None)
    print(_announcement(exercise, verdict))
    if not verdict.passed:
        return exercise.reference
    if problem := mine.keep(exercise.id, function):
        print(f"It is kept for this notebook only: {problem}.")
    return function


def hint(exercise_id: str) -> None:
    r"""Show one more hint; the mildest comes first.

    Args:
        exercise_id: which exercise.
    """
    exercise = exercise_named(exercise_id)
    seen = current_shelf().progress().get(exercise.id, {}).get("hints", 0)
    if seen >= len(exercise.hints):
        print(f'These are all. solution("{exercise.id}") shows how the course does it.\n')
    else:
        seen = current_shelf().note(exercise.id, hints=1)["hints"]
    print("\n".join(f"{number}. {text}" for number, text in enumerate(exercise.hints[:seen], 1)))


def solution(exercise_id: str, yes: bool = False) -> None:
    r"""Show the course's own function, after asking.

    Args:
        exercise_id: which exercise.
        yes: True shows it at once.
    """
    exercise = exercise_named(exercise_id)
    if yes:
        print(solution_source(exercise))
        return
    left = len(exercise.hints) - current_shelf().progress().get(exercise.id, {}).get("hints", 0)
    if left > 0:
        print(f'{left} of {len(exercise.hints)} hints are still unread: hint("{exercise.id}")')
    print(f'To see the solution: solution("{exercise.id}", yes=True)')


def reset(exercise_id: str) -> None:
    r"""Start an exercise again: a fresh cell with the stub; the attempt so far is filed, and no longer used.

    Args:
        exercise_id: which exercise.
    """
    exercise = exercise_named(exercise_id)
    namespace = _caller()
    value = namespace.pop(exercise.name, None)
    attempt = value if value is not None and not _is_reference(exercise, value) else _last_seen.get(exercise.id)
    shelf = current_shelf()
    filed = shelf.attempt(exercise.id) is not None
    mine.forget(exercise.id)
    _last_seen.pop(exercise.id, None)
    if not filed and inspect.isfunction(attempt):
        shelf.file_attempt(exercise.id, inspect.getsource(attempt))
    shelf.note(exercise.id, passed=False)
    shell = _shell()
    if shell is None:
        print(stub_source(exercise))
    else:
        shell.set_next_input(stub_source(exercise).rstrip())


def progress() -> Table:
    r"""How far the learner is.

    Returns: a row a lesson, and a row with the totals.
    """
    done = current_shelf().progress()
    rows = []
    for lesson in sorted({exercise.lesson for exercise in exercises()}):
        group = [exercise for exercise in exercises() if exercise.lesson == lesson]
        rows.append((lesson, *_tally(group, done)))
    return Table(("lesson", "passed", "points", "tries", "hints"), (*rows, ("all", *_tally(list(exercises()), done))))


def _tally(group: list[Exercise], done: dict[str, dict[str, Any]]) -> tuple[str, str, int, int]:
    passed = [exercise for exercise in group if done.get(exercise.id, {}).get("passed")]
    entries = [done.get(exercise.id, {}) for exercise in group]
    points = f"{sum(e.points for e in passed)} of {sum(e.points for e in group)}"
    tries, hints = (sum(entry.get(key, 0) for entry in entries) for key in ("tries", "hints"))
    return f"{len(passed)} of {len(group)}", points, tries, hints


def _look(exercise: Exercise, namespace: dict[str, Any]) -> tuple[Any, Verdict | None]:
    r"""Find the learner's function, or a verdict on why there is none."""
    if (broken := _broken_cell(exercise, namespace)) is not None:
        return None, broken
    if exercise.name not in namespace:
        text = f"there is no {exercise.name} in this notebook yet: run the cell of the exercise"
        return None, Verdict("missing", text)
    value = namespace[exercise.name]
    if not _is_reference(exercise, value):
        if callable(value):
            _last_seen[exercise.id] = value
    elif exercise.id in _last_seen:
        value = _last_seen[exercise.id]
    else:
        return None, Verdict("missing", f"{exercise.name} is the course's own here: run the cell of the exercise")
    return value, None


def _announcement(exercise: Exercise, verdict: Verdict) -> str:
    if verdict.passed:
        return f"{exercise.name}: passed"
    instead = f"The lesson goes on with the course's own {exercise.name}."
    if verdict.kind in ("not attempted", "missing"):
        return f"{exercise.name}: {verdict.message}. {instead}"
    return f'{exercise.name}: not yet.\n\n{verdict.message}\n\n{instead} For help: hint("{exercise.id}")'


def _broken_cell(exercise: Exercise, namespace: dict[str, Any]) -> Verdict | None:
    r"""A cell with a syntax error does not run, and what the name holds is then older: look at the cell itself."""
    shell = _shell()
    inputs = namespace.get("In", []) if shell is not None and namespace is shell.user_ns else []
    defines = re.compile(rf"^(async\s+)?def\s+{exercise.name}\b|^{exercise.name}\s*=(?!\s*check\()", re.MULTILINE)
    cell = next((text for text in reversed(inputs) if defines.search(text)), None)
    if cell is None:
        return None
    try:
        ast.parse(cell)
    except SyntaxError as error:
        line = (error.text or "").strip()
        return Verdict("syntax", f"The cell did not run: {error.msg}, in line {error.lineno}:\n    {line}")
    return None


def _is_reference(exercise: Exercise, value: Any) -> bool:
    return getattr(value, "course_reference", value) is exercise.reference


def _caller() -> dict[str, Any]:
    r"""The global names of whoever called the public function, in a notebook or a script."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", PACKAGE).partition(".")[0] in BETWEEN:
        frame = frame.f_back
    return frame.f_globals


def _shell() -> Any:
    if "IPython" not in sys.modules:
        return None
    return sys.modules["IPython"].get_ipython()
