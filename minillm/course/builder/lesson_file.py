r"""Read the source of a lesson: a Python file in jupytext's percent form, with directives in the cells' metadata.

    # %% exercise="layers.softmax.softmax"       becomes task and hints, stub or solution, and the check
    # %% [markdown] interview="00"               becomes the lesson's questions, folded, a cell each
    # %% name="sums" tags=["compare"]            the output is compared when the notebooks are tested
    # %% variant="solved"                        stands in solutions/ only ("blank": in notebooks/ only)
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode

SOURCES = "notebooks/src"
DIRECTIVES = {"exercise", "interview", "name", "tags", "variant"}
VARIANTS = ("blank", "solved")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
NAME = re.compile(r"[A-Za-z][\w-]{0,60}")


@dataclass(frozen=True)
class SourceCell:
    r"""One cell of a lesson as it is written.

    Args:
        kind: "code" or "markdown".
        text: its source.
        directives: its metadata.
    """

    kind: str
    text: str
    directives: dict[str, Any]


@dataclass(frozen=True)
class LessonFile:
    r"""A lesson as it is written.

    Args:
        name: such as "02_attention".
        cells: its cells.
    """

    name: str
    cells: tuple[SourceCell, ...]

    @property
    def number(self) -> str:
        r"""The lesson's number.

        Returns: two digits.
        """
        return self.name[:2]

    def named_cell(self, name: str) -> SourceCell | None:
        r"""Find a cell by its name.

        Args:
            name: as in its metadata.
        Returns: the cell, or None.
        """
        return next((cell for cell in self.cells if cell.directives.get("name") == name), None)

    def heading_above(self, name: str) -> str | None:
        r"""The heading under which a named cell stands.

        Args:
            name: as in its metadata.
        Returns: the heading's text, None if there is no such cell or no heading above it.
        """
        last = None
        for cell in self.cells:
            if cell.directives.get("name") == name:
                return last
            if cell.kind == "markdown":
                last = next(reversed(HEADING.findall(cell.text)), last)
        return None


def lesson_names(root: Path) -> list[str]:
    r"""The lessons that there are.

    Args:
        root: the folder of the project.
    Returns: their names, in order.
    """
    return sorted(path.stem for path in (root / SOURCES).glob("[0-9][0-9]_*.py"))


def read_lesson(root: Path, name: str) -> LessonFile:
    r"""Read a lesson's source and look whether its directives make sense.

    Args:
        root: the folder of the project.
        name: such as "02_attention".
    Returns: the lesson.
    Raises:
        ValueError: if there is no such lesson, or a cell's metadata is not understood, naming lesson and cell.
    """
    path = root / SOURCES / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"there is no lesson {name!r} in {SOURCES}; choose from {', '.join(lesson_names(root))}")
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    cells = tuple(SourceCell(cell.cell_type, cell.source, _directives(cell)) for cell in notebook.cells)
    names = [cell.directives["name"] for cell in cells if "name" in cell.directives]
    for number, cell in enumerate(cells, 1):
        place = f"{name}, cell {number} ({cell.text[:30]!r})"
        if unknown := set(cell.directives) - DIRECTIVES:
            raise ValueError(f"{place}: metadata {sorted(unknown)} is unknown; use {', '.join(sorted(DIRECTIVES))}")
        given = cell.directives.get("name", "a")
        if not NAME.fullmatch(given) or names.count(given) > 1:
            raise ValueError(f"{place}: name {given!r}; use letters, digits and _, and each name once")
        if cell.directives.get("variant", "blank") not in VARIANTS:
            raise ValueError(f"{place}: variant {cell.directives['variant']!r}; use 'blank' or 'solved'")
        if ("exercise" in cell.directives or "interview" in cell.directives) and cell.text.strip():
            raise ValueError(f"{place}: a cell with exercise or interview is written by the builder; leave it empty")
    return LessonFile(name, cells)


def _directives(cell: NotebookNode) -> dict[str, Any]:
    r"""A cell's metadata without jupytext's own notes on blank lines."""
    return {key: value for key, value in cell.metadata.items() if not key.startswith("lines_to_")}
