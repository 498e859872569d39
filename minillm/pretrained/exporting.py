r"""What every kind of export has: an empty folder to write to, and a report of what was written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exported:
    r"""What an export wrote.

    Args:
        files: that were written.
        notes: sentences about what the files do not hold, or hold in another form; empty if they hold all.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def make_empty(directory: str | Path) -> Path:
    r"""Make a folder to write to.

    Args:
        directory: must not exist, or be empty.
    Returns: its path.
    Raises:
        ValueError: if something is there already.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"directory={str(directory)!r} is not empty; give a folder that is, or that does not exist")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def end_ids(tokenizer: Any) -> dict[str, int | None]:
    r"""The ids that begin, end and pad a text.

    Args:
        tokenizer: of the model.
    Returns: `bos`, `eos` and `pad`, None where the tokenizer has no such token. Readers have to be told that, too: the
        LLaMA that they would think of has 1 and 2.
    """
    return {name: getattr(tokenizer, f"{name}_id", None) for name in ("bos", "eos", "pad")}
