r"""Public docstrings say what the course needs them to say, and agree with the signature they stand under.

The rules, for what is public in layers, model, text, training and inference:
- every function, class and method has a docstring, whose first paragraph is closed by a full stop; `forward` and the
  `on_...` of callbacks may do without, because the class and the interface explain them;
- names under `Args:` are those of the signature, in its order (a class: of its `__init__`, or a dataclass's fields);
- whose body raises ValueError or TypeError has `Raises:`;
- a function or class with parameters has `Args:` and a line `Lesson: NN.`, and if it gives something `Returns:` (or
  `Yields:`); a function with parameters in layers, and every exercise, has `Source:` (or `Reason:`).
For all of minillm: a docstring is raw or has no backslash, and holds no control character.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from minillm.course import exercises
from tests.repo.project import ROOT, definitions, dotted, parameters, place, python_files, require_none, tree_of

TOOLS = ("layers.paths.", "layers.recorder.")  # they look at the layers and come from no paper
TAUGHT = ("layers", "model", "text", "training", "inference")
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Source|Reason|Lesson|Shape|Example)s?:", re.MULTILINE)

Definition = ast.FunctionDef | ast.ClassDef


def taught_files() -> tuple[Path, ...]:
    r"""The files whose functions the lessons teach."""
    return python_files(*(f"minillm/{part}" for part in TAUGHT))


def argument_names(docstring: str) -> list[str] | None:
    r"""The names of the `Args:` section, or None if there is no such section."""
    _, found, rest = docstring.partition("\nArgs:\n")
    if not found:
        return None
    end = SECTION.search(rest)
    entries = re.findall(r"^    (\S[^:\n]*):", rest[: end.start() if end else None], re.MULTILINE)
    return [name.strip(" *`") for entry in entries for name in entry.split(",")]


def decorators(node: Definition) -> set[str]:
    r"""The last words of a definition's decorators: {"dataclass", "property", ...}."""
    calls = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return {dotted(call).rpartition(".")[2] for call in calls}


def signature_names(node: Definition) -> list[str]:
    r"""The parameters that a docstring has to explain: of the function, or of making an object of the class."""
    if isinstance(node, ast.FunctionDef):
        return [parameter.arg for parameter in parameters(node)]
    if "dataclass" in decorators(node):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        return [item.target.id for item in fields if "ClassVar" not in ast.unparse(item.annotation)]
    makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    return [parameter.arg for parameter in parameters(makers[0])] if makers else []


def own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    r"""The nodes of a function's body, without those of functions inside it."""
    todo = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            todo += ast.iter_child_nodes(node)


def gives_something(function: ast.FunctionDef) -> bool:
    r"""Whether the annotation promises a value."""
    return function.returns is not None and ast.unparse(function.returns) not in ("None", "NoReturn", "Never")


def refuses(function: ast.FunctionDef) -> bool:
    r"""Whether the body itself raises ValueError or TypeError."""
    raised = (node.exc for node in own_nodes(function) if isinstance(node, ast.Raise) and node.exc)
    return any(dotted(exc.func if isinstance(exc, ast.Call) else exc) in ("ValueError", "TypeError") for exc in raised)


def missing_everywhere(node: Definition) -> Iterator[str]:
    r"""What a docstring of a function, class or method lacks."""
    docstring = ast.get_docstring(node)
    if not docstring:
        if node.name != "forward" and not node.name.startswith("on_"):
            yield "no docstring"
        return
    first = docstring.partition("\n\n")[0].strip()
    if not first.endswith((".", "?", ":", "!")) and not SECTION.search(first):
        yield "the first paragraph does not end in a full stop"
    wanted, found = signature_names(node), argument_names(docstring)
    if found is not None and found != wanted:
        yield f"Args are {found}, the signature has {wanted}"
    if isinstance(node, ast.FunctionDef) and refuses(node) and "\nRaises:" not in docstring:
        yield "raises ValueError or TypeError, and has no Raises:"


def missing_at_top(node: Definition, where: str) -> Iterator[str]:
    r"""What the docstring of a function or class lacks beyond that; `where` is its path under minillm."""
    docstring = ast.get_docstring(node) or ""
    is_function = isinstance(node, ast.FunctionDef)
    if not signature_names(node):
        return
    if argument_names(docstring) is None:
        yield "no Args:"
    if is_function and gives_something(node) and not re.search(r"^(Returns|Yields):", docstring, re.MULTILINE):
        yield "no Returns:"
    if not re.search(r"^Lesson: \d\d(, \d\d)*\.", docstring, re.MULTILINE):
        yield "no line `Lesson: NN.`"
    in_layers = is_function and where.startswith("layers.") and not where.startswith(TOOLS)
    if in_layers or where in {exercise.id for exercise in exercises()}:
        if not re.search(r"^(Source|Reason):", docstring, re.MULTILINE):
            yield "no Source: (or Reason:)"


def violations_of(path: Path) -> Iterator[str]:
    r"""Every violation of one file."""
    module = ".".join(path.relative_to(ROOT / "minillm").with_suffix("").parts)
    for node in definitions(tree_of(path)):
        for problem in [*missing_everywhere(node), *missing_at_top(node, f"{module}.{node.name}")]:
            yield f"{place(path, node)}: {node.name}: {problem}"
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    for problem in missing_everywhere(method):
                        yield f"{place(path, method)}: {node.name}.{method.name}: {problem}"


def test_public_docstrings_are_complete_and_true():
    require_none((v for path in taught_files() for v in violations_of(path)), "see the head of this file for the form")


def test_tensors_in_layers_have_shapes_in_the_signature():
    violations = []
    for path in python_files("minillm/layers"):
        for node in definitions(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                for parameter in parameters(node):
                    if parameter.annotation is None or ast.unparse(parameter.annotation) in ("Tensor", "torch.Tensor"):
                        violations.append(f"{place(path, node)}: {node.name}({parameter.arg})")
    require_none(violations, 'annotate tensors with their shape: Float[Tensor, "B T D"]')


def test_docstrings_are_raw_or_free_of_backslashes():
    violations = []
    for path in python_files("minillm", "notebooks/src", "figures"):
        lines = path.read_text(encoding="utf-8").split("\n")
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) or not ast.get_docstring(node):
                continue
            literal = node.body[0].value
            written = lines[literal.lineno - 1 : literal.end_lineno]
            if "\\" in "".join(written) and written[0].lstrip()[0] != "r":
                violations.append(f"{place(path, literal)}: a backslash in a docstring that is not raw")
            if any(ord(letter) < 32 and letter != "\n" for letter in inspect.cleandoc(literal.value)):
                violations.append(f"{place(path, literal)}: a control character in a docstring")
    require_none(violations, 'write r"""..."""')
