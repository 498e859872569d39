r"""`python -m minillm`: the command line."""

import sys


def main() -> None:
    r"""Check that this Python can run the course at all, and hand over to the commands.

    Typing `python -m minillm` with the system's Python instead of the course's environment is the most common slip, so
    it gets a sentence instead of a traceback.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 (this line is for exactly the Python that is too old)
        sys.exit(f"minillm needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Try: make setup")
    try:
        from minillm.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "minillm":
            raise
        sys.exit(
            f"minillm: this Python ({sys.executable}) lacks the package {error.name!r}. "
            "Set the course up with `make setup`, then use its own Python: .venv/bin/python -m minillm"
        )
    run()


if __name__ == "__main__":
    main()
