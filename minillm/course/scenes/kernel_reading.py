r"""The kernel's source, cut into functions that fit on a screen."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

from minillm.inference import fast

LONG_HEX = re.compile(r"\b0x((?:[0-9a-fA-F]{2}){3,})\b")


def kernel_part(name: str) -> str:
    r"""One function or struct of the kernel, with the comment lines above it.

    Args:
        name: as it is defined in kernel.cpp, or a pattern such as "*_portable"; of several, the first.
    Returns: its lines, with the bytes of long hexadecimal numbers apart, as C++ also reads them.
    Raises:
        ValueError: if there is none.
    """
    part = source_part((Path(fast.__path__[0]) / "kernel.cpp").read_text(encoding="utf-8"), name)
    return LONG_HEX.sub(lambda found: "0x" + "'".join(re.findall("..", found[1])), part)


def source_part(source: str, name: str) -> str:
    r"""One definition out of C++: from the line that names it to the brace that closes it.

    Args:
        source: a file in which definitions begin at the first column, and comments hold as many { as }.
        name: of a function or struct, or a pattern.
    Returns: its lines, with the comment lines above it.
    Raises:
        ValueError: if nothing of that name is defined.
    """
    lines = source.splitlines()
    first = next((number for number, line in enumerate(lines) if _defines(line, name)), None)
    if first is None:
        raise ValueError(f"name={name!r}: nothing of that name is defined there; look into kernel.cpp for what is")
    end, depth = first, 0
    while end < len(lines):
        depth += lines[end].count("{") - lines[end].count("}")
        end += 1
        if depth == 0:
            break
    while first and lines[first - 1].startswith(("//", "template")):
        first -= 1
    return "\n".join(lines[first:end])


def _defines(line: str, name: str) -> bool:
    if "{" not in line or line[:1] in ("", " ", "/", "#", "}"):
        return False
    words = line.partition("{")[0].partition("(")[0].split()
    return "(" in line or words[0] == "struct" if fnmatchcase(words[-1], name) else False
