r"""Turn a lesson's source into a notebook: the learner's, with blank exercises, or the solved one."""

import ast
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minillm.course.bank import FOLDER, Question, questions
from minillm.course.builder.lesson_file import SOURCES, LessonFile, SourceCell, read_lesson
from minillm.course.catalogue import exercise_named
from minillm.course.exercise import Exercise
from minillm.course.source import solution_source, stub_source

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
COMPARED = "nbval-check-output"
MAY_FAIL = "raises-exception"


def expand_lesson(root: Path, lesson: LessonFile, variant: str, bank: Path = FOLDER) -> NotebookNode:
    r"""Make a notebook, not yet run.

    Args:
        root: the folder of the project.
        lesson: its source.
        variant: "blank" or "solved".
        bank: the folder of the questions.
    Returns: the notebook.
    Raises:
        ValueError: if an exercise is unknown, or a lesson has an interview corner but no questions.
    """
    cells: list[NotebookNode] = []
    built: tuple[str, ...] = ()
    imports: set[str] = set()
    for cell in lesson.cells:
        directives = cell.directives
        if directives.get("variant", variant) != variant:
            continue
        if "exercise" in directives:
            exercise = exercise_named(directives["exercise"])
            solved = solution_source(exercise, built, tuple(imports)) if variant == "solved" else None
            cells += exercise_cells(exercise, solved)
            built += (exercise.id,)
        elif "interview" in directives:
            cells += interview_cells(root, lesson, directives["interview"], bank)
        else:
            cells.append(_plain_cell(cell))
            imports |= _import_lines(cell) if cell.kind == "code" else set()
    _number(cells)
    metadata = {
        "kernelspec": KERNEL,
        "language_info": LANGUAGE,
        "minillm": {"generated_from": f"{SOURCES}/{lesson.name}.py", "variant": variant},
    }
    notebook = new_notebook(cells=cells, metadata=metadata, nbformat_minor=5)
    nbformat.validate(notebook)
    return notebook


def exercise_cells(exercise: Exercise, solved: str | None) -> list[NotebookNode]:
    r"""The three cells of an exercise: what to write, where to write it, and the check.

    Args:
        exercise: which.
        solved: the source of the solution; None for the stub.
    Returns: a Markdown cell and two code cells.
    """
    dots = "●" * exercise.difficulty + "○" * (3 - exercise.difficulty)
    hints = [
        f"<details>\n<summary>Hint {number} of {len(exercise.hints)}</summary>\n\n{hint}\n\n</details>"
        for number, hint in enumerate(exercise.hints, 1)
    ]
    facts = f"`{exercise.name}` · difficulty {dots} · about {exercise.minutes} minutes"
    task = "\n\n".join([f"### Exercise: {exercise.title}", facts, exercise.task, *hints])
    source = stub_source(exercise) if solved is None else solved
    cells = {
        "task": new_markdown_cell(task),
        "attempt": new_code_cell(source.rstrip()),
        "check": new_code_cell(f'{exercise.name} = check("{exercise.id}")'),
    }
    for role, cell in cells.items():
        cell.id = f"{exercise.name}-{role}"
        cell.metadata["exercise"] = {
            "id": exercise.id, "role": role, "points": exercise.points, "seed": exercise.seed
        }  # fmt: skip
    cells["attempt"].metadata["tags"] = [MAY_FAIL]
    cells["check"].metadata["tags"] = [COMPARED]
    return list(cells.values())


def interview_cells(root: Path, lesson: LessonFile, number: str, bank: Path) -> list[NotebookNode]:
    r"""The folded questions of a lesson, a Markdown cell each.

    Args:
        root: the folder of the project.
        lesson: the lesson in which they stand.
        number: the lesson whose questions they are.
        bank: the folder of the questions.
    Returns: the cells.
    """
    asked = questions(number, bank)
    if not asked:
        raise ValueError(f"{lesson.name}: there are no questions of lesson {number!r} in the bank; write them first")
    cells = []
    for question in asked:
        cell = new_markdown_cell(question_text(root, lesson, question))
        cell.id = f"interview-{question.id}"[:64]
        cell.metadata["interview"] = question.id
        cells.append(cell)
    return cells


def question_text(root: Path, lesson: LessonFile, question: Question) -> str:
    r"""One question as Markdown, folded.

    Args:
        root: the folder of the project.
        lesson: the lesson in which it stands.
        question: which.
    Returns: the text.
    """
    dots = "●" * question.difficulty + "○" * (3 - question.difficulty)
    summary = f"<summary><b>{question.question.en}</b> {dots}<br>{question.question.zh}</summary>"
    parts = ["<details>\n" + summary, f"**In half a minute.** {question.short.en}", f"**简答。** {question.short.zh}"]
    parts += [f"**In full.** {question.full.en}", f"**详答。** {question.full.zh}"]
    if question.formula:
        parts.append(f"$$\n{question.formula}\n$$")
    if question.myth:
        parts += [f"**The popular wrong answer.** {question.myth.en}", f"**常见误解。** {question.myth.zh}"]
    further = [f"- {follow_up.en}<br>{follow_up.zh}" for follow_up in question.follow_ups]
    parts.append("**What may be asked next / 可能追问**\n\n" + "\n".join(further))
    parts.append("**Sources**\n\n" + "\n".join(f"- {source}" for source in question.source))
    parts += [f"**Proved by** {_proof_link(root, lesson, question)}", "</details>"]
    return "\n\n".join(parts)


def _proof_link(root: Path, lesson: LessonFile, question: Question) -> str:
    proof = question.proof
    there = lesson if proof.notebook == lesson.name else read_lesson(root, proof.notebook)
    heading = there.heading_above(proof.cell)
    if heading is None:
        raise ValueError(f"{question.id}: {proof.notebook} has no cell named {proof.cell!r} under a heading; name one")
    file = "" if there is lesson else f"{proof.notebook}.ipynb"
    return f"[{heading}]({file}#{quote(heading.replace(' ', '-'))}), cell `{proof.cell}`"


def _plain_cell(cell: SourceCell) -> NotebookNode:
    made = new_code_cell(cell.text) if cell.kind == "code" else new_markdown_cell(cell.text)
    metadata: dict[str, Any] = {}
    if "name" in cell.directives:
        made.id = metadata["name"] = cell.directives["name"]
    if tags := [COMPARED if tag == "compare" else tag for tag in cell.directives.get("tags", [])]:
        metadata["tags"] = tags
    made.metadata.update(metadata)
    return made


def _number(cells: list[NotebookNode]) -> None:
    r"""Give ids that a rebuild does not change: a cell's name, or its place."""
    taken: set[str] = set()
    for place, cell in enumerate(cells, 1):
        own = "name" in cell.metadata or "exercise" in cell.metadata or "interview" in cell.metadata
        cell.id = re.sub(r"[^\w-]", "-", cell.id) if own else f"cell-{place:03d}"
        if cell.id in taken:
            raise ValueError(f"two cells would have the id {cell.id!r}; use each name and each exercise once a lesson")
        taken.add(cell.id)


def _import_lines(cell: SourceCell) -> set[str]:
    r"""Every import that a cell makes, a line for each name and the line as it stands."""
    try:
        tree = ast.parse(cell.text)
    except SyntaxError:  # a magic command
        return set()
    lines = set()
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            lines.add(ast.unparse(node))
            for alias in node.names:
                one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
                lines.add(ast.unparse(one))
    return lines
