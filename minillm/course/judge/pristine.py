r"""Judge with torch as it was when the course was imported, whatever a notebook has patched since."""

import builtins
import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from typing import Any

import torch

MODULES = (torch, torch.nn.functional, torch.linalg, torch.special, math, builtins)
CLASSES = (torch.Tensor,)
_inside = False
BEFORE = tuple((space, dict(vars(space))) for space in MODULES + CLASSES)


@contextmanager
def pristine() -> Iterator[None]:
    r"""Put torch, math and the builtins back as they were at import, for as long as the block runs.

    An oracle that calls torch.softmax must not meet the torch.softmax that a learner has put there. What was patched
    is put back on leaving: the notebook is the learner's.

    Returns: a context manager.
    """
    global _inside
    if _inside:
        yield
        return
    patched = [change for space, before in BEFORE for change in _changes(space, before)]
    for space, name, original, _ in patched:
        _put(space, name, original)
    _inside = True
    try:
        yield
    finally:
        _inside = False
        for space, name, _, current in patched:
            _put(space, name, current)


_ABSENT: Any = object()


def _changes(space: Any, before: dict[str, Any]) -> list[tuple[Any, str, Any, Any]]:
    now = vars(space)
    as_many = len(now) == len(before) if isinstance(space, type) else len(now) >= len(before)
    if as_many and all(map(operator.eq, before, now)):  # the names in their old order, nearly always: no Python loop
        changed = compress(before, map(operator.is_not, before.values(), now.values()))
        return [(space, name, before[name], now[name]) for name in changed]
    changes = [(space, name, old, now.get(name, _ABSENT)) for name, old in before.items() if now.get(name) is not old]
    if isinstance(space, type):  # a new attribute of a class may hide a method of its base
        changes += [(space, name, _ABSENT, now[name]) for name in list(now) if name not in before]
    return changes


def _put(space: Any, name: str, value: Any) -> None:
    if value is _ABSENT:
        delattr(space, name)
    else:
        setattr(space, name, value)
