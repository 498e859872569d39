r"""Make the stub and the solution of an exercise from the reference in the package: nothing is written twice."""

import ast
import importlib.util
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minillm.course.exercise import PACKAGE, Exercise

SECTIONS = ("Args:", "Returns:", "Raises:", "Source:", "Lesson:")
FOR_LEARNERS = ("Args:", "Returns:", "Raises:")
INDENT = " " * 4


@dataclass(frozen=True)
class Reference:
    r"""The text of a reference function and of the module it stands in.

    Args:
        lines: the module's lines.
        module: the module's syntax tree.
        function: the function's node in it.
    """

    lines: tuple[str, ...]
    module: ast.Module
    function: ast.FunctionDef

    @property
    def body(self) -> list[ast.stmt]:
        r"""The statements after the docstring.

        Returns: at least one node.
        """
        return self.function.body[1:] if ast.get_docstring(self.function) else self.function.body


@cache
def reference_of(exercise_id: str) -> Reference:
    r"""Read the reference from its file.

    Args:
        exercise_id: the function's path under minillm.
    Returns: its source.
    Raises:
        ValueError: if the module has no such function.
    """
    module_name, _, name = f"{PACKAGE}.{exercise_id}".rpartition(".")
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        raise ValueError(f"exercise {exercise_id}: there is no module {module_name}; write the reference first")
    text = Path(spec.origin).read_text(encoding="utf-8")
    module = ast.parse(text)
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return Reference(tuple(text.splitlines()), module, node)
    raise ValueError(f"exercise {exercise_id}: {module_name} has no function {name}; write the reference first")


def signature_line(function: ast.FunctionDef) -> str:
    r"""The `def` line without annotations.

    Args:
        function: the node.
    Returns: "def name(a, b=None):".
    """
    plain = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(plain, ast.FunctionDef)
    every = [*plain.args.posonlyargs, *plain.args.args, *plain.args.kwonlyargs, plain.args.vararg, plain.args.kwarg]
    for argument in every:
        if argument is not None:
            argument.annotation = None
    return f"def {function.name}({ast.unparse(plain.args)}):"


def stub_source(exercise: Exercise) -> str:
    r"""What the learner starts from: the signature, what goes in and out, and a raise.

    Args:
        exercise: whose stub.
    Returns: the source of one function.
    """
    function = reference_of(exercise.id).function
    first, sections = _docstring_parts(ast.get_docstring(function) or "")
    body = [first] + ([""] + sections if sections else [])
    doc = textwrap.indent(_quoted(body), INDENT)
    return f"{signature_line(function)}\n{doc}\n{INDENT}raise NotImplementedError\n"


def solution_source(exercise: Exercise, built: tuple[str, ...] = (), given: tuple[str, ...] = ()) -> str:
    r"""The reference as it would stand in a notebook: no annotations, a one-line docstring, its imports in front.

    Args:
        exercise: whose solution.
        built: ids of the exercises that come before it in the notebook; they are called by their bare names there.
        given: import lines that the notebook has already run.
    Returns: the source of a cell.
    """
    reference = reference_of(exercise.id)
    calls = _calls_of_built(reference, built)
    body = _body_text(reference, calls)
    needed = _imports_and_constants(reference, exercise, built, {node.value.id for node in calls})
    first, _ = _docstring_parts(ast.get_docstring(reference.function) or "")
    head = [line for line in needed if line not in given]
    doc = [INDENT + _quoted([first])] if first else []
    parts = head + ([""] * 2 if head else []) + [signature_line(reference.function), *doc, body]
    return "\n".join(parts) + "\n"


def _docstring_parts(text: str) -> tuple[str, list[str]]:
    r"""Split into the first sentence and the lines of the sections that a learner needs."""
    first, _, rest = text.partition("\n\n")
    kept: list[str] = []
    keep = False
    for line in (rest if rest else "").splitlines():
        if line.startswith(SECTIONS):
            keep = line.startswith(FOR_LEARNERS)
        if keep:
            kept.append(line)
    return " ".join(first.split()), kept


def _quoted(lines: list[str]) -> str:
    text = "\n".join(lines) + ("\n" if len(lines) > 1 else "")
    return ('r"""' if "\\" in text else '"""') + text + '"""'


def _calls_of_built(reference: Reference, built: tuple[str, ...]) -> list[ast.Attribute]:
    r"""Find `softmax.softmax` and the like, where the notebook has a function of that name itself."""
    modules = module_aliases(reference.module)
    return [
        node
        for statement in reference.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and f"{modules.get(node.value.id)}.{node.attr}" in {f"{PACKAGE}.{name}" for name in built}
    ]


def _body_text(reference: Reference, calls: list[ast.Attribute]) -> str:
    r"""The body's own lines, comments included, with the module names of the given calls taken out."""
    start, end = reference.body[0].lineno, reference.function.end_lineno or 0
    docstring_end = reference.function.body[0].end_lineno or 0
    if reference.body[0] is not reference.function.body[0]:
        start = docstring_end + 1  # a comment before the first statement belongs to the body
    lines = list(reference.lines)
    for node in sorted(calls, key=lambda node: (node.lineno, -node.col_offset)):
        line = lines[node.lineno - 1]
        at = len(line.encode()[: node.col_offset].decode())
        lines[node.lineno - 1] = line[:at] + line[at:].removeprefix(f"{node.value.id}.")  # type: ignore[attr-defined]
    return "\n".join(lines[start - 1 : end])


def module_aliases(module: ast.Module) -> dict[str, str]:
    r"""Map the names that a module's imports bind to the full names of what they import.

    Args:
        module: a syntax tree.
    Returns: such as {"softmax": "minillm.layers.softmax"}.
    """
    names = {}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
    return names


def _imports_and_constants(
    reference: Reference, exercise: Exercise, built: tuple[str, ...], replaced: set[str]
) -> list[str]:
    r"""The lines that a notebook needs before the function can run in it."""
    counts: dict[str, int] = {}
    for statement in [*reference.body, *reference.function.args.defaults, *reference.function.args.kw_defaults]:
        for node in ast.walk(statement) if statement is not None else ():
            if isinstance(node, ast.Name):
                counts[node.id] = counts.get(node.id, 0) + 1
    for node in _calls_of_built(reference, built):
        counts[node.value.id] -= 1  # type: ignore[attr-defined]
    used = {name for name, count in counts.items() if count}
    imports, definitions = [], []
    for node in reference.module.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            kept = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in used]
            if kept and getattr(node, "module", "") not in ("jaxtyping", "__future__"):
                node_kept = ast.Import(kept) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, kept, 0)
                imports.append(ast.unparse(node_kept))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in used:
            path = f"{exercise.id.rpartition('.')[0]}.{node.name}"
            if node.name != exercise.name and path not in built:
                imports.append(f"from {exercise.module_name} import {node.name}")
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in used for t in node.targets):
            definitions.append(ast.unparse(node))
    return imports + ([""] if imports and definitions else []) + definitions
