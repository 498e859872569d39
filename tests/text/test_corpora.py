"""Real texts: read exactly, refused clearly, split without overlap."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.text.corpora import python_docs, read_text, split_text


def test_python_docs():
    text = python_docs()
    assert len(text) > 200_000 and "lambda" in text and text == python_docs()


def test_a_file_and_a_folder(tmp_path: Path):
    (tmp_path / "b.txt").write_text("second é\n", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\n")  # with the mark that some editors put in front
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.md").write_text("third", encoding="utf-8")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    (tmp_path / "empty.txt").write_text("")
    assert read_text(tmp_path / "b.txt") == "second é\n"
    assert read_text(str(tmp_path)) == "first\n\n\nsecond é\n\n\nthird"


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="nowhere.txt' does not exist"):
        read_text(tmp_path / "nowhere.txt")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("good\ncafé".encode("latin-1"))
    for path in (latin, tmp_path):
        with pytest.raises(ValueError, match=r"latin.txt' is not UTF-8: byte 8 \(line 2\) is 0xE9"):
            read_text(path)
    latin.write_text(" \n")
    with pytest.raises(ValueError, match="latin.txt' has no text in it"):
        read_text(latin)
    with pytest.raises(ValueError, match="is a folder without text in it"):
        read_text(tmp_path)


@given(st.text(min_size=2, max_size=80) | st.text("ab\n", min_size=2, max_size=80), st.floats(0.01, 0.99))
def test_split_has_no_overlap_and_loses_nothing(text: str, share: float):
    train, validation = split_text(text, share)
    assert train and validation and train + validation == text
    assert len(validation) >= round(len(text) * share) - 1 or len(train) == 1


def test_split_at_line_ends_and_errors():
    assert split_text("one\ntwo\nthree four", 0.5) == ("one\ntwo\n", "three four")
    assert split_text("abcdefghij", 0.2) == ("abcdefgh", "ij")
    with pytest.raises(ValueError, match="validation_share=1.0 must lie between 0 and 1"):
        split_text("text", 1.0)
    with pytest.raises(ValueError, match="text has 1 characters"):
        split_text("x")
