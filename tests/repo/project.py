r"""The repository as the rules see it: which files there are, and what they say."""

import ast
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", "my", "build", "dist", "__pycache__", ".ipynb_checkpoints", ".hypothesis"}


@cache
def committed_files() -> tuple[Path, ...]:
    r"""Every file that is committed; without git (a downloaded archive) all but caches and `my/`."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not NOT_OURS & set(path.relative_to(ROOT).parts)]
    return tuple(sorted(path for path in paths if path.is_file()))


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    r"""The Python files in and under these folders (below the root, such as "minillm/layers"), committed or not yet."""
    starts = [ROOT / folder for folder in folders]
    found = {path for start in starts for path in ([start] if start.is_file() else start.rglob("*.py"))}
    return tuple(sorted(path for path in found if not NOT_OURS & set(path.relative_to(ROOT).parts)))


@cache
def tree_of(path: Path) -> ast.Module:
    r"""The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def place(path: Path, node: ast.AST | None = None) -> str:
    r"""Where a violation is: the path below the root, and the line of a node."""
    name = path.relative_to(ROOT).as_posix()
    return f"{name}:{node.lineno}" if node is not None and hasattr(node, "lineno") else name


def definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    r"""The public functions and classes at the top level of a module."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    r"""All functions and methods, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    r"""A function's parameters in order, without self and cls."""
    a = function.args
    in_order = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    return [parameter for parameter in in_order if parameter is not None and parameter.arg not in ("self", "cls")]


def dotted(node: ast.AST) -> str:
    r"""`torch.cuda.is_available` for such a chain of attributes, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def require_none(violations: Iterable[str], rule: str) -> None:
    r"""Fail with the rule and every violation, a line each."""
    found = list(violations)
    assert not found, "\n".join([f"{rule} ({len(found)} places)", *found])
