r"""`python -m minillm lab`: open JupyterLab on the lessons."""

from typing import Annotated

import typer


def lab_command(
    browser: Annotated[bool, typer.Option(help="Open a browser; without one, the address is printed.")] = True,
    port: Annotated[int, typer.Option(help="The port to serve on; the next free one is taken if it is in use.")] = 8888,
) -> None:
    r"""Open JupyterLab on the lessons.

    The lessons are copied to my/ the first time; what stands there is yours and is never written over.
    """
    from minillm.course.lab import open_lab

    open_lab(browser=browser, port=port)
