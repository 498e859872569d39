r"""An exercise function is called through its module, so that a learner's version can be switched in."""

import ast
import importlib

from minillm.course import exercises
from tests.repo.project import place, python_files, require_none, tree_of


def test_exercises_are_functions_of_the_package():
    assert exercises(), "no exercise at all"
    for exercise in exercises():
        module, _, name = exercise.id.rpartition(".")
        assert callable(getattr(importlib.import_module(f"minillm.{module}"), name)), exercise.id


def test_no_module_holds_an_exercise_under_a_name_of_its_own():
    homes = {
        (f"minillm.{module}", name) for module, _, name in (exercise.id.rpartition(".") for exercise in exercises())
    }
    violations = []
    for path in python_files("minillm"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                taken = [alias.name for alias in node.names if (node.module, alias.name) in homes]
                violations += [f"{place(path, node)}: from {node.module} import {name}" for name in taken]
    require_none(
        violations, "import the module and write module.function(...): a setattr on the module must reach this call"
    )
