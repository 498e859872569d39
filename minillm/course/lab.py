r"""`make lab`: give the learner copies of the lessons in my/, and open JupyterLab on the first."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode

from minillm.course.builder import ROOT
from minillm.course.catalogue import exercises
from minillm.course.shelf import MARKER, Shelf

START = "00_start_here"
COPIES = "copies.json"
SETTINGS = Path(__file__).parent / "lab_settings"  # no question about news, no look for updates: it works offline


def open_lab(browser: bool = True, port: int = 8888, root: Path = ROOT) -> None:
    r"""Copy what is new to my/, then hand this process over to JupyterLab.

    Args:
        browser: open one; without it the address is printed.
        port: where to serve; JupyterLab takes the next free one if it is in use.
        root: the folder of the project.
    Raises:
        FileNotFoundError: if no lesson has been built.
    """
    for line in prepare_copies(root):
        print(line)
    sys.stdout.flush()
    command = lab_command_line(browser, port, root)
    if os.name == "nt":  # there execv would leave the terminal before JupyterLab ends
        raise SystemExit(subprocess.call(command, cwd=root))
    os.chdir(root)
    os.execv(command[0], command)


def lab_command_line(browser: bool, port: int, root: Path) -> list[str]:
    r"""The command that starts JupyterLab on the learner's first notebook.

    Args:
        browser: whether it opens one.
        port: where to serve.
        root: the folder of the project; all of it is served, so that lessons can link to the package.
    Returns: the arguments of the process.
    """
    options = [
        f"--LabApp.app_settings_dir={SETTINGS}",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
    ]
    if not browser:
        options.append("--no-browser")
    if getattr(os, "geteuid", lambda: 1)() == 0:  # in a container one often is root, and JupyterLab would refuse
        options.append("--allow-root")
    first = _editions(root / "my", START) or sorted(path.name for path in (root / "my").glob("*.ipynb"))
    # As the default address, not as an argument: then the printed address leads to the lesson too.
    options.append(f"--LabApp.default_url=/lab/tree/my/{quote(first[-1])}")
    return [sys.executable, "-m", "jupyterlab", *options]


def prepare_copies(root: Path) -> list[str]:
    r"""Put a copy of each lesson into my/, and a newer one beside a copy that is out of date; write over nothing.

    Args:
        root: the folder of the project.
    Returns: a line for the learner about each newer lesson.
    Raises:
        FileNotFoundError: if no lesson has been built.
    """
    lessons = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not lessons:
        raise FileNotFoundError("there are no lessons in notebooks/; build them with: python -m minillm lessons")
    my = root / "my"
    (my / MARKER).mkdir(parents=True, exist_ok=True)
    shelf = Shelf(my / MARKER)
    copied: dict[str, list[str]] = shelf.read_json(COPIES)
    lines = []
    for lesson in lessons:
        notebook = nbformat.read(lesson, as_version=4)
        mark, older = _mark(notebook), _editions(my, lesson.stem)
        if older and mark in copied.get(lesson.stem, []):
            continue
        name = f"{lesson.stem}.ipynb"
        if older:
            name = _next_edition(my, lesson.stem)
            carried = carry_over(notebook, nbformat.read(my / older[-1], as_version=4), shelf)
            lines.append(f"{lesson.stem} has changed. The new edition is my/{name}; it holds {carried} of the")
            lines.append(f"functions that you have solved. Your my/{older[-1]} stays as it is.")
        _clear(notebook)
        nbformat.write(notebook, my / name)
        copied.setdefault(lesson.stem, []).append(mark)
        shelf.write(COPIES, json.dumps(copied, indent=1, sort_keys=True) + "\n")
    return lines


def carry_over(new: NotebookNode, old: NotebookNode, shelf: Shelf) -> int:
    r"""Put the learner's passed attempts into the exercise cells of a newer lesson.

    Args:
        new: the newer lesson; its cells are changed in place, since it is about to be written as a new file.
        old: the learner's copy.
        shelf: tells which exercises have been passed.
    Returns: how many were carried over.
    """
    passed = {name for name, entry in shelf.progress().items() if entry.get("passed")}
    attempts = {_exercise_of(cell): cell.source for cell in old.cells if _exercise_of(cell)}
    carried = 0
    for cell in new.cells:
        name = _exercise_of(cell)
        if name in passed and (source := attempts.get(name) or shelf.attempt(name)):
            cell.source = source
            carried += 1
    return carried


def _exercise_of(cell: NotebookNode) -> str:
    r"""The exercise that is solved in this cell; "" if none is."""
    entry: dict[str, Any] = cell.metadata.get("exercise", {})
    known = {exercise.id for exercise in exercises()}
    return entry["id"] if entry.get("role") == "attempt" and entry.get("id") in known else ""


def _clear(notebook: NotebookNode) -> None:
    r"""Take the outputs away: a learner predicts first, then runs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def _mark(notebook: NotebookNode) -> str:
    r"""What tells one edition of a lesson from the next: its cells, not their outputs."""
    text = json.dumps([[cell.cell_type, cell.source] for cell in notebook.cells])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _editions(my: Path, stem: str) -> list[str]:
    r"""The learner's copies of a lesson, the oldest first."""
    numbered = {int(path.stem.rpartition("_")[2]): path.name for path in my.glob(f"{stem}_edition_[0-9]*.ipynb")}
    first = [f"{stem}.ipynb"] if (my / f"{stem}.ipynb").exists() else []
    return first + [numbered[number] for number in sorted(numbered)]


def _next_edition(my: Path, stem: str) -> str:
    number = 2
    while (my / f"{stem}_edition_{number}.ipynb").exists():
        number += 1
    return f"{stem}_edition_{number}.ipynb"
