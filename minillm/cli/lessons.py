r"""`python -m minillm lessons`: build the notebooks from their sources."""

from typing import Annotated

import typer

LessonNames = Annotated[list[str] | None, typer.Argument(help="Such as 02_attention; all, if none is named.")]
Execute = Annotated[bool, typer.Option(help="Without it old outputs are kept: enough where only prose has changed.")]


def lessons_command(names: LessonNames = None, execute: Execute = True) -> None:
    r"""Build the notebooks from their sources.

    Every lesson in notebooks/src is executed and written to notebooks/ (blank) and solutions/ (solved); a table shows
    the time and memory of each against its budget. Exits with 1 if one fails or is over it.
    """
    from minillm.course.builder import build

    raise typer.Exit(build(names or None, execute=execute))
