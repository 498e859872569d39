r"""Every exercise of the course."""

import importlib
import pkgutil
from functools import cache

from minillm.course import lessons
from minillm.course.exercise import Exercise


@cache
def exercises() -> tuple[Exercise, ...]:
    r"""Gather the exercises of all lessons.

    Returns: all of them, in the order of the lessons and of their place in them.
    Raises:
        ValueError: if two have one id, or one stands in another lesson's file.
    """
    found: dict[str, Exercise] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(lessons.__path__)):
        for exercise in importlib.import_module(f"{lessons.__name__}.{name}").EXERCISES:
            if exercise.id in found:
                raise ValueError(f"exercise {exercise.id} is defined twice; keep one of the two")
            if name != f"lesson_{exercise.lesson}":
                raise ValueError(f"exercise {exercise.id} of lesson {exercise.lesson} is in lessons/{name}; move it")
            found[exercise.id] = exercise
    return tuple(found.values())


def exercise_named(exercise_id: str) -> Exercise:
    r"""Find an exercise.

    Args:
        exercise_id: the reference's path under minillm, such as "layers.sdpa.sdpa".
    Returns: the exercise.
    Raises:
        ValueError: if there is none, with those that end in the same name, or else all of them.
    """
    known = {exercise.id: exercise for exercise in exercises()}
    if exercise_id not in known:
        last = str(exercise_id).rpartition(".")[2]
        near = [name for name in known if name.rpartition(".")[2] == last] or list(known)
        raise ValueError(f"there is no exercise {exercise_id!r}; did you mean {', '.join(near)}?")
    return known[exercise_id]
