r"""Build the lessons: notebooks/src/NN_topic.py becomes notebooks/NN_topic.ipynb and solutions/NN_topic.ipynb."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from minillm.course.builder.expand import expand_lesson
from minillm.course.builder.leaks import leaks_in
from minillm.course.builder.lesson_file import VARIANTS, lesson_names, read_lesson
from minillm.course.builder.outputs import complaints, same_run, strip_outputs, tidy_outputs
from minillm.course.builder.running import AIM, GIGABYTE, budget_of, run_notebook
from minillm.course.catalogue import exercises
from minillm.course.tables import Table

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = {"blank": "notebooks", "solved": "solutions"}
RECORD = "build/lessons.json"


@dataclass(frozen=True)
class Built:
    r"""What became of one notebook.

    Args:
        name: the lesson.
        variant: "blank" or "solved".
        result: "written", "unchanged" or what went wrong.
        seconds: of its run.
        memory: of its run, in bytes.
        sound: whether all is well.
    """

    name: str
    variant: str
    result: str
    seconds: float = 0.0
    memory: int = 0
    sound: bool = True


def build(names: Iterable[str] | None = None, execute: bool = True, root: Path = ROOT) -> int:
    r"""Build lessons, both variants, and print what each took against its budget.

    Args:
        names: such as "02_attention"; None builds all.
        execute: False takes the outputs of the notebooks that are there, which works while only prose has changed.
        root: the folder of the project.
    Returns: 0, or 1 if a notebook failed, was over its budget or showed what must not be published.
    """
    done = []
    for name in list(names or lesson_names(root)):
        for variant in VARIANTS:
            done.append(_build_one(root, name, variant, execute))
            if not done[-1].sound:
                print(f"{name} ({variant}): {done[-1].result}")
    if execute:
        print(_cost_table(done))
        _record(root, done)
    return 0 if all(one.sound for one in done) else 1


def _build_one(root: Path, name: str, variant: str, execute: bool) -> Built:
    target = root / FOLDERS[variant] / f"{name}.ipynb"
    try:
        lesson = read_lesson(root, name)
        notebook = expand_lesson(root, lesson, variant)
    except ValueError as error:
        return Built(name, variant, str(error), sound=False)
    old = nbformat.read(target, as_version=4) if target.is_file() else None
    target.parent.mkdir(exist_ok=True)
    if not execute:
        if old is None or not _take_outputs(notebook, old):
            return Built(name, variant, "code has changed, so it must be run", sound=False)
        return _write(target, notebook, old, Built(name, variant, "written"))
    try:
        cost = run_notebook(notebook, target.parent, f"{name} ({variant})")
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return Built(name, variant, f"{type(error).__name__}\n{error}", sound=False)
    tidy_outputs(notebook)
    found = complaints(notebook, root)
    if variant == "blank":
        found += leaks_in(notebook, exercises())
    if found:
        return Built(name, variant, "\n  ".join(["not written:", *found]), cost.seconds, cost.memory, sound=False)
    built = _write(target, notebook, old, Built(name, variant, "written", cost.seconds, cost.memory))
    if not budget_of(lesson.number).allows(cost):
        return Built(name, variant, f"{built.result}, but over its budget", cost.seconds, cost.memory, sound=False)
    return built


def _write(target: Path, notebook: NotebookNode, old: NotebookNode | None, built: Built) -> Built:
    if old is not None and same_run(old, notebook):
        return Built(built.name, built.variant, "unchanged", built.seconds, built.memory)
    nbformat.write(notebook, target)
    return built


def _take_outputs(notebook: NotebookNode, old: NotebookNode) -> bool:
    r"""Put the outputs of an older build under the same code; False if the code is not the same."""
    new_code, old_code = ([c for c in book.cells if c.cell_type == "code"] for book in (notebook, old))
    if [cell.source for cell in new_code] != [cell.source for cell in old_code]:
        return False
    for new, before in zip(new_code, old_code, strict=True):
        new.outputs, new.execution_count = before.outputs, before.execution_count
    return True


def _cost_table(done: list[Built]) -> Table:
    rows = []
    for one in done:
        budget = budget_of(one.name[:2])
        slow = " (aim: 20 s)" if one.seconds > AIM else ""
        seconds = f"{one.seconds:.1f} of {budget.seconds:.0f} s{slow}"
        memory = f"{one.memory / GIGABYTE:.2f} of {budget.memory / GIGABYTE:.0f} GB"
        rows.append((one.name, one.variant, seconds, memory, one.result.splitlines()[0]))
    return Table(("lesson", "variant", "time", "memory", "result"), tuple(rows))


def _record(root: Path, done: list[Built]) -> None:
    path = root / RECORD
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for one in done:
        key = f"{FOLDERS[one.variant]}/{one.name}"
        known[key] = {"seconds": round(one.seconds, 1), "memory_mb": one.memory // 2**20, "result": one.result}
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["Built", "build", "strip_outputs"]
