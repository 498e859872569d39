r"""Find solutions where a learner would see them."""

import ast
import re
from collections.abc import Iterator
from functools import cache

from nbformat import NotebookNode

from minillm.course.builder.outputs import output_text
from minillm.course.exercise import Exercise
from minillm.course.source import module_aliases, reference_of, solution_source

FENCED = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def leaks_in(notebook: NotebookNode, exercises: tuple[Exercise, ...]) -> list[str]:
    r"""Look for two statements of a solution in a row: in code, in Markdown, hints included, and in outputs.

    Layout, comments, quotes and annotations make no difference. Of a solution of one statement, that one is looked for.

    Args:
        notebook: what a learner gets.
        exercises: whose solutions must not be in it.
    Returns: a line for each leak.
    """
    shown = []  # each cell is read once, for all exercises
    for number, cell in enumerate(notebook.cells, 1):
        texts = [cell.source] if cell.cell_type == "code" else _code_in(cell.source)
        texts += [output_text(output) for output in cell.get("outputs", [])]
        windows = set().union(*map(_windows, texts))
        shown.append((f"cell {number} ({cell.id})", windows, [_squeezed(text) for text in texts]))
    found = []
    for exercise in exercises:
        pairs, squeezed = _telling_parts(exercise)
        for place, windows, texts in shown:
            if pairs & windows or any(part in text for text in texts for part in squeezed):
                found.append(f"{place} shows how {exercise.id} is solved")
    return found


@cache
def _telling_parts(exercise: Exercise) -> tuple[set[tuple[str, ...]], set[str]]:
    r"""Every pair of neighbouring statements of the solution, as the package writes it and as a notebook would.

    Returns: the pairs in the form of the syntax tree, and as squeezed text.
    """
    module = "\n".join(reference_of(exercise.id).lines)
    in_notebook = solution_source(exercise, _called(ast.parse(module)))
    parsed: set[tuple[str, ...]] = set()
    squeezed: set[str] = set()
    for text in (module, in_notebook):
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        function = next(node for node in functions if node.name == exercise.name)
        body = function.body[1:] if ast.get_docstring(function) else function.body
        parts = list(_pairs(body)) or [(body[0],)]
        parsed |= {_unparsed(part) for part in parts}
        squeezed |= {_squeezed("\n".join(ast.get_source_segment(text, node) or "" for node in part)) for part in parts}
        squeezed |= {_squeezed("\n".join(_unparsed(part))) for part in parts}
    return parsed, squeezed


def _called(module: ast.Module) -> tuple[str, ...]:
    r"""Every function that the module could call through another module, as if it had been built before."""
    paths, names = set(), module_aliases(module)
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            paths.add(f"{names[node.value.id]}.{node.attr}".partition(".")[2])
    return tuple(paths)


def _windows(text: str) -> set[tuple[str, ...]]:
    r"""All pairs of neighbours in a piece of code, and all its single returns; none, if it is no code."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return set()
    returns = [(node,) for node in ast.walk(tree) if isinstance(node, ast.Return)]
    return {_unparsed(part) for part in [*_pairs(tree.body), *returns]}


def _pairs(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ...]]:
    r"""The neighbours in a block, and in every block inside of it."""
    yield from zip(body, body[1:], strict=False)
    for statement in body:
        for field in ("body", "orelse", "finalbody"):
            yield from _pairs(getattr(statement, field, []))


def _unparsed(part: tuple[ast.stmt, ...]) -> tuple[str, ...]:
    r"""Statements in one layout, without annotations."""
    plain = [
        ast.copy_location(ast.Assign([node.target], node.value), node)
        if isinstance(node, ast.AnnAssign) and node.value is not None
        else node
        for node in part
    ]
    return tuple(map(ast.unparse, plain))


def _code_in(markdown: str) -> list[str]:
    return FENCED.findall(markdown) + ["\n".join(INLINE.findall(markdown))]


def _squeezed(text: str) -> str:
    without_comments = re.sub(r"#[^\n]*", "", text)
    bare = re.sub(r"\s+", "", without_comments).replace("'", '"')
    return re.sub(r",([)\]}])", r"\1", bare)
