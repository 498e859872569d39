r"""The schema of the question bank: every slip is named with file, question and field."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from minillm.course.bank import questions, read_questions

GOOD: dict[str, Any] = {
    "id": "sums",
    "lesson": "02",
    "question": {"en": "What?", "zh": "什么？"},
    "short": {"en": "This.", "zh": "这个。"},
    "full": {"en": "This, because.", "zh": "因为。"},
    "formula": None,
    "source": ["Vaswani et al. 2017"],
    "myth": None,
    "follow_ups": [{"en": "And then?", "zh": "然后呢？"}],
    "difficulty": 1,
    "proof": {"notebook": "02_attention", "cell": "cell"},
}


def write(folder: Path, *entries: Any, name: str = "02_attention.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(list(entries), allow_unicode=True), encoding="utf-8")
    return path


def test_good_entry_is_read(tmp_path: Path) -> None:
    (question,) = read_questions(write(tmp_path, GOOD))
    assert (question.id, question.short.zh, question.proof.cell, question.myth) == ("sums", "这个。", "cell", None)
    assert questions("02", tmp_path) == (question,)
    assert questions("03", tmp_path) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, r"question 1: id is missing"),
        ({"lesson": "03"}, r"sums: lesson is '03'"),
        ({"lesson": 2}, r"sums: lesson is 2"),
        ({"short": {"en": "This."}}, r"sums: short is .*both languages"),
        ({"full": {"en": "This.", "zh": " "}}, r"sums: full.zh is ' '"),
        ({"question": "What?"}, r"sums: question is 'What\?'"),
        ({"formula": 3}, r"sums: formula is 3"),
        ({"source": "Vaswani"}, r"sums: source is 'Vaswani'; write a list"),
        ({"source": []}, r"sums: source is \[\]"),
        ({"myth": {"en": "So."}}, r"sums: myth"),
        ({"follow_ups": ["And?"]}, r"sums: follow_ups is 'And\?'"),
        ({"difficulty": 4}, r"sums: difficulty is 4"),
        ({"proof": {"notebook": "02_attention"}}, r"sums: proof is"),
        ({"proof": {"notebook": "02_attention", "cell": ""}}, r"sums: proof.cell is ''"),
        ({"hint": "x"}, r"sums: hint is no field"),
    ],
)
def test_wrong_entry_is_named(tmp_path: Path, change: dict, words: str) -> None:
    path = write(tmp_path, GOOD | change)
    with pytest.raises(ValueError, match=r"02_attention.yaml: " + words):
        read_questions(path)


@pytest.mark.parametrize("field", GOOD)
def test_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = write(tmp_path, {key: value for key, value in GOOD.items() if key != field})
    with pytest.raises(ValueError, match=f"{field} is missing"):
        read_questions(path)


def test_file_that_is_no_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "02_attention.yaml"
    for text, words in (("a: 1", "must be a list"), ("", "must be a list"), ("{a: b? c}: [", "no YAML")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=f"02_attention.yaml: .*{words}"):
            read_questions(path)


def test_id_that_is_used_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD | {"lesson": "03"}, name="03_variants.yaml")
    with pytest.raises(ValueError, match=r"03_variants.yaml: sums: id is used twice"):
        questions(None, tmp_path)
