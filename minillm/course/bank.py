r"""The question bank: interview questions with answers in English and Chinese, each proved by a cell of a lesson."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "interview"
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Bilingual:
    r"""The same text in two languages.

    Args:
        en: English.
        zh: Chinese.
    """

    en: str
    zh: str


@dataclass(frozen=True)
class Proof:
    r"""The cell whose run shows that an answer is true.

    Args:
        notebook: the lesson's file without its ending, such as "02_attention".
        cell: the `name` in that cell's metadata.
    """

    notebook: str
    cell: str


@dataclass(frozen=True)
class Question:
    r"""One question of the bank.

    Args:
        id: unique in the bank.
        lesson: two digits.
        question: as an interviewer asks it.
        short: the answer in 20-40 seconds.
        full: the answer with its reasons and limits.
        formula: LaTeX, or None.
        source: papers or documentation, with section or equation.
        myth: the popular wrong answer and why it tempts, or None.
        follow_ups: what may be asked next.
        difficulty: 1 to 3.
        proof: where it is shown.
    """

    id: str
    lesson: str
    question: Bilingual
    short: Bilingual
    full: Bilingual
    formula: str | None
    source: tuple[str, ...]
    myth: Bilingual | None
    follow_ups: tuple[Bilingual, ...]
    difficulty: int
    proof: Proof


FIELDS = tuple(Question.__dataclass_fields__)


def questions(lesson: str | None = None, folder: Path = FOLDER) -> tuple[Question, ...]:
    r"""Read the bank.

    Args:
        lesson: two digits, to read that lesson's questions only.
        folder: where the YAML files are.
    Returns: the questions in the order of the lessons and of their place in the file.
    Raises:
        ValueError: if a file is not as the schema has it, naming file, question and field; or if an id is used twice.
    """
    found: dict[str, Question] = {}
    for path in sorted(folder.glob("*.yaml")):
        for question in read_questions(path):
            if question.id in found:
                raise ValueError(f"{path.name}: {question.id}: id is used twice in the bank; choose another")
            found[question.id] = question
    return tuple(question for question in found.values() if lesson in (None, question.lesson))


def read_questions(path: Path) -> tuple[Question, ...]:
    r"""Read one file of the bank.

    Args:
        path: a YAML file that holds a list.
    Returns: its questions.
    Raises:
        ValueError: if it is not as the schema has it, naming file, question and field.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: this is no YAML: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path.name}: the file must be a list of questions; begin each with '- id: ...'")
    return tuple(_question(path, number, entry) for number, entry in enumerate(entries, 1))


def _question(path: Path, number: int, entry: Any) -> Question:
    own = entry.get("id") if isinstance(entry, dict) else None
    place = f"{path.name}: {own or f'question {number}'}"
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise ValueError(f"{place}: id is missing; give it a short name in small letters")
    for field in entry:
        if field not in FIELDS:
            raise ValueError(f"{place}: {field} is no field of a question; the fields are {', '.join(FIELDS)}")
    for field in FIELDS:
        if field not in entry:
            raise ValueError(f"{place}: {field} is missing; write it, as null where there is none")
    if entry["lesson"] != path.name[:2]:
        raise ValueError(f"{place}: lesson is {entry['lesson']!r}; write {path.name[:2]!r}, as in the file's name")
    if entry["difficulty"] not in (1, 2, 3):
        raise ValueError(f"{place}: difficulty is {entry['difficulty']!r}; choose 1, 2 or 3")
    proof = entry["proof"]
    if not isinstance(proof, dict) or set(proof) != {"notebook", "cell"}:
        raise ValueError(f"{place}: proof is {proof!r}; write {{notebook: 02_attention, cell: NAME}}")
    if entry["formula"] is not None:
        _text(f"{place}: formula", entry["formula"])
    return Question(
        id=entry["id"],
        lesson=entry["lesson"],
        question=_bilingual(f"{place}: question", entry["question"]),
        short=_bilingual(f"{place}: short", entry["short"]),
        full=_bilingual(f"{place}: full", entry["full"]),
        formula=entry["formula"],
        source=tuple(_text(f"{place}: source", source) for source in _list(f"{place}: source", entry["source"])),
        myth=None if entry["myth"] is None else _bilingual(f"{place}: myth", entry["myth"]),
        follow_ups=tuple(
            _bilingual(f"{place}: follow_ups", follow_up)
            for follow_up in _list(f"{place}: follow_ups", entry["follow_ups"])
        ),
        difficulty=entry["difficulty"],
        proof=Proof(_text(f"{place}: proof.notebook", proof["notebook"]), _text(f"{place}: proof.cell", proof["cell"])),
    )


def _bilingual(place: str, value: Any) -> Bilingual:
    if not isinstance(value, dict) or set(value) != set(LANGUAGES):
        raise ValueError(f"{place} is {value!r:.60}; write it in both languages, {{en: ..., zh: ...}}")
    return Bilingual(*(_text(f"{place}.{language}", value[language]) for language in LANGUAGES))


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place} is {value!r}; write a text that is not empty (in quotes, if it looks like a number)")
    return value.strip()


def _list(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place} is {value!r:.60}; write a list with at least one entry")
    return value
