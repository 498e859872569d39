r"""Write a function of a notebook as a small file of its own, with everything that it needs."""

import ast
import builtins
import importlib
import inspect
import symtable
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch

from minillm.course.catalogue import exercises
from minillm.course.exercise import Exercise


def portable_source(exercise: Exercise, function: Callable[..., Any]) -> str:
    r"""Collect a learner's function with the helpers, imports and plain constants of the notebook that it uses.

    A call of another exercise's function is led through the package's module, where `mine.active()` puts the learner's.

    Args:
        exercise: what the function solves.
        function: defined in a notebook.
    Returns: the text of a Python file that defines it.
    Raises:
        ValueError: if it uses something that cannot be written down, naming that and what to do.
    """
    if not isinstance(function, FunctionType):
        raise ValueError(f"{exercise.name} is not made by `def`; define it with `def {exercise.name}(...):`")
    if function.__closure__:
        raise ValueError(f"{exercise.name} is defined inside another function; define it at the left margin of a cell")
    collected = _Collector(function.__globals__, exercise)
    collected.add_source(function.__name__, function)
    title = f'r"""Your own {exercise.name}, kept by check("{exercise.id}")."""'
    parts = [title, "\n".join(dict.fromkeys(collected.imports)), *collected.pieces]
    if function.__name__ not in (exercise.name, "<lambda>"):
        parts.append(f"{exercise.name} = {function.__name__}")
    text = "\n\n".join(part for part in parts if part) + "\n"
    if not callable(load_function(exercise, text)):
        raise ValueError(f"{exercise.name} is not defined by its own cell; define it with `def {exercise.name}(...):`")
    return text


def load_function(exercise: Exercise, text: str, filename: str = "<your attempt>") -> Callable[..., Any] | None:
    r"""Run an attempt's file and take its function.

    Args:
        exercise: what it solves.
        text: the file.
        filename: what a traceback calls it.
    Returns: the function; None if the file defines none of that name.
    """
    space: dict[str, Any] = {"__name__": f"attempt_{exercise.name}"}
    exec(compile(text, filename, "exec"), space)
    return space.get(exercise.name)


class _Collector:
    def __init__(self, namespace: dict[str, Any], exercise: Exercise) -> None:
        self.namespace = namespace
        self.done = {exercise.name}
        self.others = {other.name: other for other in exercises() if other is not exercise}
        self.imports: list[str] = []
        self.pieces: list[str] = []

    def add_source(self, name: str, value: Any) -> None:
        try:
            source = textwrap.dedent(inspect.getsource(value))
            ast.parse(source)
        except (OSError, TypeError, SyntaxError) as error:
            raise ValueError(f"the source of {name} was not found; define it with `def` in a cell") from error
        self.done.add(name)
        for used in _global_names(source):
            if used in self.namespace and used not in self.done:
                self.add(used, self.namespace[used])
        self.pieces.append(source.strip())

    def add(self, name: str, value: Any) -> None:
        self.done.add(name)
        if isinstance(value, ModuleType):
            self.imports.append(f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else ""))
        elif name in self.others and callable(value):
            self.pieces.append(_call_through_module(self.others[name]))
        elif getattr(value, "__module__", None) == self.namespace.get("__name__") and callable(value):
            self.add_source(name, value)
        elif (line := _import_line(name, value)) is not None:
            self.imports.append(line)
        else:
            self.add_constant(name, value)

    def add_constant(self, name: str, value: Any) -> None:
        if isinstance(value, (torch.dtype, torch.device)):
            self.imports.append("import torch")
            self.pieces.append(f"{name} = {value!r}" if isinstance(value, torch.dtype) else f"{name} = torch.{value!r}")
            return
        try:
            if ast.literal_eval(repr(value)) == value:
                self.pieces.append(f"{name} = {value!r}")
                return
        except (ValueError, SyntaxError, TypeError, RuntimeError):
            pass
        raise ValueError(f"it uses {name}, a {type(value).__name__} of the notebook; make that in the function itself")


def _global_names(source: str) -> list[str]:
    r"""The names that a piece of source takes from outside, in the order of the alphabet."""
    names: set[str] = set()

    def walk(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or (top and not symbol.is_assigned())):
                names.add(symbol.get_name())
        for child in table.get_children():
            walk(child, False)

    walk(symtable.symtable(source, "attempt", "exec"), True)
    return sorted(name for name in names if not hasattr(builtins, name))


def _import_line(name: str, value: Any) -> str | None:
    r"""The import that gives this very object, if there is one."""
    original = getattr(value, "__name__", name)
    for module_name in (getattr(value, "__module__", None), "torch", "torch.nn.functional", "math"):
        try:
            module = importlib.import_module(module_name) if module_name and module_name != "__main__" else None
        except ImportError:
            continue
        for attribute in (original, name):
            if module is not None and getattr(module, attribute, None) is value:
                return f"from {module_name} import {attribute}" + (f" as {name}" if name != attribute else "")
    return None


def _call_through_module(exercise: Exercise) -> str:
    package, _, module = exercise.module_name.rpartition(".")
    return (
        f"def {exercise.name}(*args, **kwargs):\n"
        f"    from {package} import {module} as course_module\n\n"
        f"    return course_module.{exercise.name}(*args, **kwargs)"
    )
