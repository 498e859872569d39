r"""Imports go one way, and each part knows only the packages it may know."""

import ast
import sys
import tomllib
from collections.abc import Iterator

from tests.repo.project import ROOT, dotted, place, python_files, require_none, tree_of

MODEL = {"config", "layers", "model"}
MIDDLE = MODEL | {"text"}
UPPER = MIDDLE | {"native", "training", "inference", "tuning", "pretrained"}
MAY_IMPORT = {
    "config": {"config"},
    "layers": {"layers"},
    "native": {"native"},
    "text": {"text"},
    "model": MODEL,
    "training": MIDDLE | {"native", "training"},
    "inference": MIDDLE | {"native", "inference"},
    "tuning": MIDDLE | {"training", "inference", "tuning"},
    "pretrained": MIDDLE | {"training", "inference", "pretrained"},
    "detours": {"detours"},
    "course": UPPER | {"course", "detours"},
    "bench": UPPER | {"bench"},
    "cli": UPPER | {"course", "bench", "cli"},
    "__main__": {"cli"},
    "__init__": set(),
}
MODULE_OF = {"PyYAML": "yaml", "huggingface-hub": "huggingface_hub"}  # where a distribution's module has another name
# What JupyterLab and matplotlib bring along.
BROUGHT = {"IPython", "jupyter_client", "jupyter_core", "jupyter_server", "traitlets", "PIL"}
# Whom the bench compares us with, where they are installed; only there, and only when it runs.
PEERS = {"accelerate", "llama_cpp", "transformers"}


def imported(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    r"""Every module that is imported, anywhere in the file, with the node that does it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from minillm import layers` names a part, `from minillm.layers import sdpa` has named one already.
            parts = node.module == "minillm"
            names = [f"minillm.{alias.name}" for alias in node.names] if parts else [node.module or ""]
            yield from ((node, "." * node.level + name) for name in names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module") and node.args:
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield node, node.args[0].value


def part_of(path) -> str:
    r"""The part of the package that a file belongs to: "layers", "config", ..."""
    return path.relative_to(ROOT / "minillm").parts[0].removesuffix(".py")


def test_every_part_is_known_here():
    unknown = {part_of(path) for path in python_files("minillm")} - set(MAY_IMPORT)
    assert not unknown, f"say in MAY_IMPORT what {unknown} may import"


def test_imports_go_one_way():
    violations = []
    for path in python_files("minillm"):
        for node, module in imported(tree_of(path)):
            if module.startswith("."):
                violations.append(f"{place(path, node)}: relative import; write the whole path")
            elif module.startswith("minillm."):
                part = module.split(".")[1]
                if part not in MAY_IMPORT[part_of(path)] and part != "__version__":
                    violations.append(f"{place(path, node)}: {part_of(path)} must not import {module}")
    arrows = "(layers <- model, native) <- (training, inference) <- (tuning, pretrained) <- (course, bench) <- cli"
    require_none(violations, arrows)


def test_the_arrows_have_no_cycle():
    reached = {part: allowed - {part} for part, allowed in MAY_IMPORT.items()}
    while free := [part for part, rest in reached.items() if not rest]:
        reached = {part: rest - set(free) for part, rest in reached.items() if part not in free}
    assert not reached, f"a cycle through {sorted(reached)}"


def test_nothing_in_the_package_imports_a_notebook():
    lessons = {"notebooks", "solutions", "my", "tests", *(path.stem for path in python_files("notebooks/src"))}
    found = [(path, node, module) for path in python_files("minillm") for node, module in imported(tree_of(path))]
    violations = [f"{place(path, node)}: {module}" for path, node, module in found if module.split(".")[0] in lessons]
    require_none(violations, "the package stands without its lessons and tests")


def test_other_packages_are_those_that_pyproject_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def modules(requirements: list[str]) -> set[str]:
        return {MODULE_OF.get(name, name) for name in (line.split(">=")[0] for line in requirements)}

    core = modules(project["dependencies"])
    lessons = core | modules(project["optional-dependencies"]["lessons"]) | BROUGHT
    hub = core | modules(project["optional-dependencies"]["hub"])  # for who wants more weights than those of the wheel
    violations = []
    for path in python_files("minillm"):
        part = part_of(path)
        allowed = {"course": lessons, "bench": lessons | PEERS, "cli": lessons, "pretrained": hub}.get(part, core)
        for node, module in imported(tree_of(path)):
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names | {"minillm", ""} | allowed:
                violations.append(f"{place(path, node)}: {top} in {part}")
    require_none(violations, "below course only the core packages of pyproject.toml (no plots, no widgets)")
