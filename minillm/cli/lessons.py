r"""`python -m minillm lessons`: build the notebooks from their sources."""

from typing import Annotated

import typer

LessonNames = Annotated[list[str] | None, typer.Argument(help="Such as 02_attention; all, if none is named.")]


def lessons_command(lessons: LessonNames = None) -> None:
    r"""Build the notebooks from their sources.

    Every lesson in notebooks/src is executed and written to notebooks/ (blank) and solutions/ (solved); a table shows
    the time and memory of each against its budget.
    """
    from minillm.course.builder import build

    build(lessons or None)
