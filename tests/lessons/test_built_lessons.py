r"""The committed notebooks: built from their sources, readable, and without a solution where a learner would see it."""

import re
from functools import cache

import nbformat
import pytest
from nbformat import NotebookNode

from minillm.course import exercises
from minillm.course.builder import FOLDERS, ROOT
from minillm.course.builder.expand import COMPARED, exercise_cells, expand_lesson
from minillm.course.builder.leaks import leaks_in
from minillm.course.builder.lesson_file import LessonFile, lesson_names, read_lesson
from minillm.course.builder.outputs import ADDRESS, IMAGES, complaints, has_alt_text, output_text, strip_outputs
from minillm.course.exercise import Exercise
from minillm.course.source import solution_source
from minillm.course.widgets import CONTROLS

NAMES = lesson_names(ROOT)
LONGEST_CELL = 25  # lines
LESSON = pytest.mark.parametrize("name", NAMES)
NOTEBOOK = pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in NAMES for variant in FOLDERS])
ANY_MACHINE = re.compile(r"/(home|Users|root|tmp)/|[A-Z]:\\+Users")


@cache
def built(name: str, variant: str) -> NotebookNode:
    path = ROOT / FOLDERS[variant] / f"{name}.ipynb"
    assert path.is_file(), f"{path.name} is not built; run: python -m minillm lessons {name}"
    return nbformat.read(path, as_version=4)


@cache
def source(name: str) -> LessonFile:
    return read_lesson(ROOT, name)


def code_cells(name: str, variant: str) -> list[NotebookNode]:
    return [cell for cell in built(name, variant).cells if cell.cell_type == "code"]


def test_every_lesson_that_has_exercises_has_a_source() -> None:
    lessons = {exercise.lesson for exercise in exercises()}
    assert lessons <= {name[:2] for name in NAMES}


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_every_notebook_has_a_source(folder: str) -> None:
    assert sorted(path.stem for path in (ROOT / folder).glob("*.ipynb")) == NAMES


@NOTEBOOK
def test_built_equals_committed(name: str, variant: str) -> None:
    fresh = strip_outputs(expand_lesson(ROOT, source(name), variant))
    committed = strip_outputs(built(name, variant))
    assert committed["metadata"] == fresh["metadata"]
    for old, new in zip(committed["cells"], fresh["cells"], strict=False):
        assert old == new, f"{old['id']} is out of date; run: python -m minillm lessons {name}"
    assert len(committed["cells"]) == len(fresh["cells"])


@NOTEBOOK
def test_outputs_can_be_published(name: str, variant: str) -> None:
    assert complaints(built(name, variant), ROOT) == []
    for cell in code_cells(name, variant):
        for output in cell.outputs:
            text = output_text(output)
            assert not ANY_MACHINE.search(text), f"{cell.id}: a path of the machine it was built on"
            assert not ADDRESS.search(text), f"{cell.id}: an object's address"
            assert output.output_type != "error", f"{cell.id}: an error"
            if any(kind in output.get("data", {}) for kind in IMAGES):
                assert has_alt_text(output), f"{cell.id}: a picture without a text"


@NOTEBOOK
def test_every_notebook_has_been_run_to_the_end(name: str, variant: str) -> None:
    counts = [cell.execution_count for cell in code_cells(name, variant)]
    assert counts == list(range(1, len(counts) + 1))
    assert built(name, variant).metadata.kernelspec.name == "python3"


@LESSON
def test_learner_sees_no_solution(name: str) -> None:
    assert leaks_in(built(name, "blank"), exercises()) == []


@NOTEBOOK
def test_no_cell_is_too_long(name: str, variant: str) -> None:
    for cell in code_cells(name, variant):
        lines = len(cell.source.splitlines())
        assert lines <= LONGEST_CELL, f"{cell.id} has {lines} lines; split it, or move the drawing into a module"


@NOTEBOOK
def test_half_of_the_printing_cells_are_compared(name: str, variant: str) -> None:
    printing = [
        cell
        for cell in code_cells(name, variant)
        if any(output.get("name") == "stdout" or output.output_type == "execute_result" for output in cell.outputs)
    ]
    compared = [cell for cell in printing if COMPARED in cell.metadata.get("tags", [])]
    assert printing and 2 * len(compared) >= len(printing), [cell.id for cell in printing if cell not in compared]


@LESSON
def test_verdicts_are_what_they_must_be(name: str) -> None:
    for variant, said in (("blank", "not attempted"), ("solved", "passed")):
        for cell in code_cells(name, variant):
            if cell.metadata.get("exercise", {}).get("role") == "check":
                assert said in cell.outputs[0].text, cell.id


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.id)
def test_every_exercise_is_set_in_its_lesson(exercise: Exercise) -> None:
    (name,) = [name for name in NAMES if name.startswith(exercise.lesson)]
    cells = [c for c in built(name, "blank").cells if c.metadata.get("exercise", {}).get("id") == exercise.id]
    assert [cell.metadata.exercise.role for cell in cells] == ["task", "attempt", "check"]
    assert all(cell.metadata.exercise.points == exercise.points for cell in cells)
    assert all(cell.metadata.exercise.seed == exercise.seed for cell in cells)
    task, attempt, _ = cells
    assert re.search(r"difficulty [●○]{3} · about \d+ minutes", task.source)
    assert task.source.count("<summary>Hint ") == len(exercise.hints)
    assert "raises-exception" in attempt.metadata.tags


@LESSON
def test_lesson_has_the_form_of_a_lesson(name: str) -> None:
    lesson = source(name)
    prose = "\n".join(cell.text for cell in lesson.cells if cell.kind == "markdown")
    outputs = [output_text(output) for cell in code_cells(name, "blank") for output in cell.outputs]
    assert len(re.findall(r"\bpredict", prose, re.IGNORECASE)) >= 2, "the reader is asked at least twice to predict"
    assert any(text.startswith(CONTROLS) for text in outputs), "one widget to explore with"
    assert [cell.directives["interview"] for cell in lesson.cells if "interview" in cell.directives] == [lesson.number]
    headings = [cell.text for cell in lesson.cells if cell.kind == "markdown" and cell.text.startswith("#")]
    assert headings[0].startswith("# "), "the title comes first"


def test_leak_would_be_found() -> None:
    r"""The detector, on what a learner must not get: each solution as code, in a hint, and in an output."""
    for exercise in exercises():
        blank = nbformat.v4.new_notebook()
        solved = solution_source(exercise)
        code = nbformat.v4.new_code_cell(solved)
        hint = nbformat.v4.new_markdown_cell(f"Try this:\n\n```python\n{solved}```\n")
        output = nbformat.v4.new_output("stream", text="The solution is\n" + solved)
        printed = nbformat.v4.new_code_cell("solution(yes=True)", outputs=[output])
        blank.cells = [*exercise_cells(exercise, None), code, hint, printed]
        found = [line for line in leaks_in(blank, (exercise,)) if exercise.id in line]
        assert [line.split()[1] for line in found] == ["4", "5", "6"], exercise.id
