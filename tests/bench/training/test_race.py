r"""`minillm bench train`: everyone has the same turns, and the report has what is promised. No time is judged."""

import json

import pytest
from typer.testing import CliRunner

from minillm.bench.training import race
from minillm.bench.training.settings import SETTINGS, Setting
from minillm.cli.app import build_app


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SETTINGS, "tiny", Setting(1, 2, 16, 8, 4))


def test_the_report_has_a_line_for_each_contestant():
    report = race.measure(["tiny"], rounds=3, steps=2, compile=False, dtype="bf16")
    assert json.loads(json.dumps(report)) == report
    assert report["rounds"] == 3 and report["steps"] == 2 and report["threads"] >= 1
    (setting,) = report["settings"]
    assert setting["name"] == "tiny" and setting["tokens"] == 4 * 8 * 2 * (3 + 1)
    rows = setting["contestants"]
    assert [(row["name"], row["dtype"], row["compiled"]) for row in rows] == [
        ("nanogpt", "fp32", False), ("nanogpt", "bf16 autocast", False), ("ours", "bf16", False)]
    for row in rows:
        assert row["tokens_per_s"] > 0 and row["step_ms"] > 0 and len(row["ratios"]) == 3
        assert min(row["ratios"]) <= row["ratio"] <= max(row["ratios"])
    assert rows[0]["ratios"] == [1.0] * 3, "the yardstick is not the first"
    # the same weights and batches: the losses differ by rounding
    assert all(abs(row["loss_before"] - rows[0]["loss_before"]) < 0.01 for row in rows)
    assert all(abs(row["loss"] - rows[0]["loss"]) < 0.02 for row in rows)
    text = race.race_text(report)
    assert "nanogpt bf16 autocast" in text and "256 tokens" in text


def test_the_compiled_ones_are_added(monkeypatch):
    monkeypatch.setattr("minillm.bench.training.contestants.compiled", lambda function, device: function)
    (setting,) = race.measure(["tiny"], rounds=1, steps=1, dtype="fp32")["settings"]
    assert [(row["name"], row["compiled"]) for row in setting["contestants"]] == [
        ("nanogpt", False), ("nanogpt", False), ("nanogpt", True), ("nanogpt", True), ("ours", False), ("ours", True)]


def test_the_command_prints_one_json_object_and_writes_it(tmp_path):
    out = tmp_path / "speed.json"
    run = CliRunner().invoke(build_app(), [
        "bench", "train", "--sizes", "tiny", "--rounds", "1", "--steps", "1", "--no-compile", "--threads", "1",
        "--json", "--out", str(out)])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert json.loads(out.read_text()) == report and report["threads"] == 1


def test_mistakes_are_answered():
    with pytest.raises(ValueError, match="'huge' is none of"):
        race.measure(["huge"])
    with pytest.raises(ValueError, match="rounds=0"):
        race.measure(["tiny"], rounds=0)
