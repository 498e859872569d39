r"""Where a learner's attempts and progress are kept: in the folder my/, or in memory outside of it."""

import json
import os
from pathlib import Path
from typing import Any

MARKER = ".minillm"
PROGRESS = "progress.json"


class Shelf:
    r"""A few small text files, on disk or in memory; nothing on it is written over silently.

    Args:
        folder: where the files are; None keeps them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._texts: dict[str, str] = {}

    def read(self, name: str) -> str | None:
        r"""Read a file.

        Args:
            name: its name.
        Returns: its text, None if there is no such file.
        """
        if self.folder is None:
            return self._texts.get(name)
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def write(self, name: str, text: str) -> None:
        r"""Write a file in one step, so that an interruption leaves the old one or the new one.

        Args:
            name: its name.
            text: all of it.
        """
        if self.folder is None:
            self._texts[name] = text
            return
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(path.name + ".part")
        half.write_text(text, encoding="utf-8")
        os.replace(half, path)

    def remove(self, name: str) -> None:
        r"""Take a file away; none is no error.

        Args:
            name: its name.
        """
        if self.folder is None:
            self._texts.pop(name, None)
        else:
            (self.folder / name).unlink(missing_ok=True)

    def attempt(self, exercise_id: str) -> str | None:
        r"""The learner's passed function for an exercise.

        Args:
            exercise_id: which.
        Returns: the text of a small Python file, or None.
        """
        return self.read(f"{exercise_id}.py")

    def keep_attempt(self, exercise_id: str, text: str) -> None:
        r"""Keep a passed attempt, and file the one before it, if it was another.

        Args:
            exercise_id: which.
            text: a small Python file that defines the function.
        """
        if self.attempt(exercise_id) != text:
            self.file_attempt(exercise_id)
            self.write(f"{exercise_id}.py", text)

    def file_attempt(self, exercise_id: str, text: str | None = None) -> str | None:
        r"""Put an attempt away under the next free number.

        Args:
            exercise_id: which.
            text: the attempt; None files the kept one, which is then no longer in use.
        Returns: the name of the file, None if there was nothing to file.
        """
        kept = self.attempt(exercise_id)
        if text is None and kept is None:
            return None
        number = 1
        while self.read(f"{exercise_id}.{number}.py") is not None:
            number += 1
        name = f"{exercise_id}.{number}.py"
        self.write(name, kept if text is None else text)  # type: ignore[arg-type]
        if text is None:
            self.remove(f"{exercise_id}.py")
        return name

    def progress(self) -> dict[str, dict[str, Any]]:
        r"""What the learner has done.

        Returns: for each exercise tried: "passed", "tries", "hints".
        """
        return self.read_json(PROGRESS)

    def read_json(self, name: str) -> dict[str, Any]:
        r"""Read a file of JSON; one that is broken is kept beside it, and a new one is begun.

        Args:
            name: its name.
        Returns: what it holds; empty if there is no such file.
        """
        text = self.read(name) or "{}"
        try:
            return json.loads(text)
        except ValueError:
            self.write(f"{name}.broken", text)
            self.remove(name)
            print(f"{name} could not be read; it is kept as {name}.broken, and a new one is begun.")
            return {}

    def note(self, exercise_id: str, *, tries: int = 0, hints: int = 0, passed: bool | None = None) -> dict[str, Any]:
        r"""Add to what the learner has done.

        Args:
            exercise_id: which.
            tries: how many more.
            hints: how many more.
            passed: the new state; None leaves it.
        Returns: the exercise's new entry.
        """
        progress = self.progress()
        entry = {"passed": False, "tries": 0, "hints": 0} | progress.get(exercise_id, {})
        entry |= {"tries": entry["tries"] + tries, "hints": entry["hints"] + hints}
        if passed is not None:
            entry["passed"] = passed
        self.write(PROGRESS, json.dumps(progress | {exercise_id: entry}, indent=1, sort_keys=True) + "\n")
        return entry


IN_MEMORY = Shelf()


def current_shelf() -> Shelf:
    r"""The shelf of the folder my/ that the notebook is in; a shelf in memory anywhere else.

    A folder counts only if it is called my and `make lab` has put its marker there: running the lessons from notebooks/
    or solutions/, or the tests, writes nothing to disk.

    Returns: the shelf.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if folder.name == "my" and (folder / MARKER).is_dir():
            return Shelf(folder / MARKER)
    return IN_MEMORY
