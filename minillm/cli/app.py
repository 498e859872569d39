r"""The typer application, put together from the files of this folder.

For each NAME in COMMANDS the module `minillm/cli/NAME.py` has a function `NAME_command`: its parameters are the
options, its docstring is the help, and the docstring's first sentence stands in the list of commands. Where a command
has commands of its own, the module has a function `NAME_app` that gives them. These modules
import nothing heavy at the top (torch, matplotlib, jupyter stay inside the functions), so that
`python -m minillm --help` answers at once.
"""

import importlib
import sys
from typing import Annotated

import typer

import minillm

# In the order in which a newcomer meets them; those with commands of their own come last, as typer lists them.
COMMANDS = ("lab", "doctor", "weights", "train", "chat", "generate", "eval", "export", "lessons", "bench")


def show_version(wanted: bool) -> None:
    r"""Print the version and stop, if it was asked for."""
    if wanted:
        print(minillm.__version__)
        raise typer.Exit()


VersionFlag = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")]


def app_callback(version: VersionFlag = False) -> None:
    r"""Build a small GPT part by part, train it, and talk to it."""


def build_app() -> typer.Typer:
    r"""The application with every command of this folder."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(app_callback)
    for name in COMMANDS:
        module = importlib.import_module(f"minillm.cli.{name}")
        if hasattr(module, f"{name}_app"):
            app.add_typer(getattr(module, f"{name}_app")(), name=name)
        else:
            app.command(name)(getattr(module, f"{name}_command"))
    return app


def run() -> None:
    r"""Run the command line; an error that tells the user what to change is printed without a traceback."""
    try:
        build_app()()
    except (ValueError, FileNotFoundError) as error:
        if sys.flags.dev_mode:
            raise
        sys.exit(f"minillm: {error}\n(python -X dev -m minillm ... shows where this comes from)")
