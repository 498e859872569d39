r"""The README tells the truth: its file tree, its commands, its links.

The file tree is a fenced block that has a line starting with `minillm/`. A line is an indented path, two or more spaces
and a phrase; what is indented deeper lies inside. Names with NN (NN_topic.ipynb) stand for many files.
"""

import re
from pathlib import Path

import pytest

from tests.repo.project import ROOT, committed_files

MADE_LATER = {"my"}  # git-ignored: `make lab` makes it


@pytest.fixture(scope="module")
def readme() -> str:
    r"""The text of README.md."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def tree_entries(readme: str) -> dict[str, str]:
    r"""Each path of the file tree, without its closing slash, with its phrase."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    trees = [block for block in blocks if re.search(r"^minillm/", block, re.MULTILINE)]
    assert len(trees) == 1, "README.md has one fenced block with the file tree (a line of it starts with minillm/)"
    entries, above = {}, []
    for line in filter(str.strip, trees[0].splitlines()):
        match = re.fullmatch(r"( *)(\S+)(?:  +(\S.*))?", line)
        assert match, f"not a line of a file tree: {line!r}"
        indent, name, phrase = len(match[1]), match[2], match[3] or ""
        above = [(width, folder) for width, folder in above if width < indent]
        path = "/".join([*(folder for _, folder in above), name.rstrip("/")])
        entries[path] = phrase
        above.append((indent, name.rstrip("/")))
    return entries


def package_folders() -> set[str]:
    r"""minillm and each folder right below it that holds committed Python files."""
    files = [path.relative_to(ROOT) for path in committed_files() if path.suffix == ".py"]
    return {"/".join(path.parts[:-1][:2]) for path in files if path.parts[0] == "minillm"}


def test_every_entry_of_the_tree_exists_and_has_a_phrase(readme):
    for path, phrase in tree_entries(readme).items():
        assert "NN" in path or path.split("/")[0] in MADE_LATER or (ROOT / path).exists(), f"there is no {path}"
        assert phrase, f"{path}: say in a phrase what it is"


def test_every_folder_is_in_the_tree(readme):
    tops = {path.relative_to(ROOT).parts[0] for path in committed_files() if path.parent != ROOT}
    wanted = package_folders() | {top for top in tops if not top.startswith(".")}
    assert not wanted - set(tree_entries(readme)), "folders that the file tree does not show"


def test_both_commands_and_the_plain_way_are_there(readme):
    for command in (
        "make lab",
        "make test",
        "PIP_ARGS",
        "pip install -r requirements.txt -e .",
        "python -m minillm doctor",
    ):
        assert command in readme, command


def test_links_and_pictures_lead_somewhere(readme):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img[^>]*src=\"([^\"]+)\"", readme):
        path = next(filter(None, target))
        if "://" not in path and not path.startswith("mailto:"):
            assert (ROOT / Path(path)).exists(), f"README.md points to {path}"
