r"""The learner's copies: made once, never written over; a newer lesson comes beside them."""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from minillm.course.builder.expand import exercise_cells
from minillm.course.catalogue import exercise_named
from minillm.course.lab import lab_command_line, prepare_copies
from minillm.course.shelf import MARKER, Shelf

ID = "layers.softmax.softmax"
OWN = "def softmax(x, dim=-1):\n    return 'mine'"


def publish(root: Path, name: str, text: str) -> None:
    output = new_output("stream", text="shown\n")
    cells = [new_code_cell(text, outputs=[output], execution_count=1), *exercise_cells(exercise_named(ID), None)]
    (root / "notebooks").mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), root / f"notebooks/{name}.ipynb")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def test_first_call_copies_without_outputs(tmp_path: Path) -> None:
    publish(tmp_path, "00_start_here", "print('shown')")
    assert prepare_copies(tmp_path) == []
    copy = read(tmp_path / "my/00_start_here.ipynb")
    assert copy.cells[0].source == "print('shown')" and copy.cells[0].outputs == []
    assert (tmp_path / "my" / MARKER).is_dir()


def test_copy_is_never_written_over(tmp_path: Path) -> None:
    publish(tmp_path, "00_start_here", "x = 1")
    prepare_copies(tmp_path)
    mine = tmp_path / "my/00_start_here.ipynb"
    mine.write_text("the learner's", encoding="utf-8")
    assert prepare_copies(tmp_path) == []
    assert mine.read_text(encoding="utf-8") == "the learner's"


def test_new_outputs_are_no_new_lesson(tmp_path: Path) -> None:
    publish(tmp_path, "00_start_here", "x = 1")
    prepare_copies(tmp_path)
    path = tmp_path / "notebooks/00_start_here.ipynb"
    notebook = read(path)
    notebook.cells[0].outputs[0].text = "other\n"
    nbformat.write(notebook, path)
    assert prepare_copies(tmp_path) == []


def test_newer_lesson_comes_beside_with_passed_attempts(tmp_path: Path) -> None:
    publish(tmp_path, "00_start_here", "x = 1")
    prepare_copies(tmp_path)
    mine = tmp_path / "my/00_start_here.ipynb"
    notebook = read(mine)
    notebook.cells[2].source = OWN
    nbformat.write(notebook, mine)
    before = mine.read_bytes()

    publish(tmp_path, "00_start_here", "x = 2")
    lines = prepare_copies(tmp_path)
    assert "00_start_here_edition_2.ipynb" in lines[0] and "holds 0 of" in lines[0]
    assert "NotImplementedError" in read(tmp_path / "my/00_start_here_edition_2.ipynb").cells[2].source

    Shelf(tmp_path / "my" / MARKER).note(ID, passed=True)
    edition = read(tmp_path / "my/00_start_here_edition_2.ipynb")
    edition.cells[2].source = OWN
    nbformat.write(edition, tmp_path / "my/00_start_here_edition_2.ipynb")
    publish(tmp_path, "00_start_here", "x = 3")
    assert "edition_3.ipynb; it holds 1 of" in prepare_copies(tmp_path)[0]
    third = read(tmp_path / "my/00_start_here_edition_3.ipynb")
    assert [third.cells[0].source, third.cells[2].source] == ["x = 3", OWN]
    assert mine.read_bytes() == before
    assert prepare_copies(tmp_path) == []
    assert lab_command_line(False, 8899, tmp_path)[-1].endswith("/lab/tree/my/00_start_here_edition_3.ipynb")


def test_deleted_copy_comes_back(tmp_path: Path) -> None:
    publish(tmp_path, "00_start_here", "x = 1")
    prepare_copies(tmp_path)
    (tmp_path / "my/00_start_here.ipynb").unlink()
    prepare_copies(tmp_path)
    assert (tmp_path / "my/00_start_here.ipynb").exists()


def test_server_listens_on_this_machine_only(tmp_path: Path) -> None:
    publish(tmp_path, "00_start_here", "x = 1")
    prepare_copies(tmp_path)
    command = lab_command_line(False, 8899, tmp_path)
    assert "--ServerApp.ip=127.0.0.1" in command and "--ServerApp.port=8899" in command and "--no-browser" in command
    assert command[-1] == "--LabApp.default_url=/lab/tree/my/00_start_here.ipynb"


def test_no_lesson_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m minillm lessons"):
        prepare_copies(tmp_path)
