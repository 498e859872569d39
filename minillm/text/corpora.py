r"""Real texts: the documentation that ships with Python, or any UTF-8 file or folder of yours."""

import pydoc_data.topics
from pathlib import Path


def python_docs() -> str:
    r"""Read the reference documentation that comes with every Python (half a megabyte of English and code).

    Returns: its topics in alphabetical order. The text differs a little between versions of Python.
    Lesson: 01.
    """
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"


def _read_file(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")  # drops the mark that some editors put in front
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"path {str(path)!r} is not UTF-8: byte {error.start} (line {line}) is 0x{data[error.start]:02X}; save it "
            "as UTF-8, or leave it out"
        ) from None


def read_text(path: str | Path) -> str:
    r"""Read a UTF-8 file, or all files of a folder.

    Args:
        path: a file; or a folder, whose files are read in alphabetical order of their paths, subfolders included and
            names that begin with a dot left out.
    Returns: the text; files of a folder are separated by an empty line.
    Raises:
        ValueError: if the path does not exist, a file is not UTF-8, or there is no text in it.
    Lesson: 01.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"path {str(path)!r} does not exist (looked from {str(Path.cwd())!r}); give a file or a folder"
        )
    if path.is_dir():
        inside = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        files = [path / p for p in inside if not any(part.startswith(".") for part in p.parts)]
        texts = [text for text in map(_read_file, files) if text.strip()]
        if not texts:
            raise ValueError(f"path {str(path)!r} is a folder without text in it; put UTF-8 text files there")
        return "\n\n".join(texts)
    text = _read_file(path)
    if not text.strip():
        raise ValueError(f"path {str(path)!r} has no text in it; give a file with text")
    return text


def split_text(text: str, validation_share: float = 0.1) -> tuple[str, str]:
    r"""Cut a text in two: its beginning for training, its end for validation.

    The cut is made after the last line end before the wanted place, if there is one, so that no line is torn.

    Args:
        text: at least two characters.
        validation_share: the share of characters that is kept for validation, between 0 and 1.
    Returns: training text and validation text; joined, they are the text. Neither is empty.
    Raises:
        ValueError: if the share is not between 0 and 1, or the text is shorter than two characters.
    Lesson: 01.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share={validation_share} must lie between 0 and 1, such as 0.1")
    if len(text) < 2:
        raise ValueError(f"text has {len(text)} characters; two parts need at least 2")
    wanted = min(max(round(len(text) * (1 - validation_share)), 1), len(text) - 1)
    cut = text.rfind("\n", 0, wanted) + 1 or wanted
    return text[:cut], text[cut:]
