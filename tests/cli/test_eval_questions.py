r"""eval with multiple choice from a file: a small model that is equally sure each time, and what is refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from minillm import pretrained
from minillm.cli import app
from minillm.config import preset
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer


@pytest.fixture
def asked(monkeypatch):
    r"""Loading a model gives a small one, and notes what was asked for."""
    model = GPT(preset("tiny", vocab_size=256, max_seq_len=64), torch.Generator().manual_seed(5)).eval()
    wishes = []
    monkeypatch.setattr(pretrained, "load", lambda *source, **choices: (
        wishes.append((*source, choices["weights"])), (model, ByteTokenizer()))[1])
    return wishes


def minillm(*words: str):
    return CliRunner().invoke(app.build_app(), list(words))


def test_eval_reports_accuracy_and_calibration(asked, tmp_path):
    file = tmp_path / "questions.json"
    items = [{"question": "Who?", "choices": ["Tom", "Mia", "the cat"], "answer": i % 3} for i in range(6)]
    file.write_text(json.dumps(items), encoding="utf-8")
    words = ("eval", "--model", "m", "--weights", "bf16", "--questions", str(file))
    got = json.loads(minillm(*words, "--json").stdout)
    assert got["accuracy"] == pytest.approx(1 / 3) == got["chance"] and got["n_questions"] == 6
    assert got["ece"] == pytest.approx(abs(got["mean_confidence"] - 1 / 3), abs=1e-6)  # always equally sure: one bin
    assert 1 / 3 < got["mean_confidence"] < 1 and got["corpus"] == str(file) and got["model"] == "m"
    assert asked == [("m", "bf16")] and "accuracy" in minillm(*words).stdout


def test_a_name_stands_for_the_questions_of_the_course(asked, monkeypatch):
    from minillm.course import questions

    monkeypatch.setattr(questions, "general_knowledge", lambda: "nowhere.json")
    error = minillm("eval", "--model", "m", "--questions", "general-knowledge").exception
    assert "nowhere.json cannot be read" in str(error)


def test_a_bad_file_is_refused_before_a_model_is_loaded(asked, tmp_path):
    (tmp_path / "bad.json").write_text("[1]", encoding="utf-8")
    words = ("eval", "--model", "m", "--questions", str(tmp_path / "bad.json"))
    assert "question 1" in str(minillm(*words).exception) and not asked
    assert "give one of them" in str(minillm(*words, "--text", "x").exception)
    assert "--text, or questions by --questions" in str(minillm("eval", "--model", "m").exception)
