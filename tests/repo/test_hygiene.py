r"""What no committed file may hold: control characters, paths of somebody's machine, hosts of registries."""

import re

from tests.repo.project import ROOT, committed_files, place, require_none

BINARY = {".png", ".gif", ".safetensors", ".gguf", ".npz"}
# Everything below a space but tab and line feed, and what turns the direction of text or cannot be seen.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
MACHINE_PATH = re.compile(
    r"(?<![\w.$}])(/root|/home/\w+|/Users/\w+|/work|/opt/\w+|/private/var|/tmp/\w*kernel\w*)/|C:\\+Users"
)
# Written in two halves, so that this file does not hold what it forbids.
FORBIDDEN = [
    left + right
    for left, right in (
        ("pypi.", "org"), ("python", "hosted.org"), ("download.py", "torch.org"), ("registry.", "npmjs"),
        ("deb.", "debian.org"), ("repo.ana", "conda"), ("conda.ana", "conda"),
        ("shared", "/design"), ("shared", "/questions"), ("seed_", "errors.md"), ("seed_claim", "_wrong"),
        ("cla", "ude"), ("co-authored", "-by"), ("generated ", "with ai"), ("as an ", "ai language"),
    )
]  # fmt: skip


def texts():
    r"""Every committed text file with its content; a file that is not UTF-8 is a violation in itself."""
    for path in committed_files():
        if path.suffix not in BINARY:
            yield path, path.read_bytes().decode("utf-8")


def lines():
    r"""Every line of every committed text file: (path, number, line)."""
    for path, text in texts():
        for number, line in enumerate(text.split("\n"), start=1):
            yield path, number, line


def test_no_control_characters():
    require_none(
        (f"{place(path)}:{number}: {line[:60]!r}" for path, number, line in lines() if INVISIBLE.search(line)),
        "only what can be seen, and line feeds (write others as escapes)",
    )


def test_no_path_of_a_machine():
    require_none(
        (
            f"{place(path)}:{number}: {found.group()}"
            for path, number, line in lines()
            if (found := MACHINE_PATH.search(line))
        ),
        "no absolute path of the machine it was written on",
    )


def test_no_forbidden_words():
    found = ((path, number, word) for path, number, line in lines() for word in FORBIDDEN if word in line.lower())
    require_none((f"{place(path)}:{number}: {word}" for path, number, word in found), "does not belong here")


def test_every_text_ends_with_one_line_feed():
    built = {ROOT / "notebooks", ROOT / "solutions"}  # their tests compare them with what the builder writes
    ends = ((path, text) for path, text in texts() if text and path.parent not in built)
    require_none(
        (place(path) for path, text in ends if not text.endswith("\n") or text.endswith("\n\n")),
        "ends with one line feed",
    )


def test_the_licence_is_mit():
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License") and "minillm contributors" in licence
