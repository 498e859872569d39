r"""`minillm bench train`: everyone has the same turns, and the report has what is promised. No time is judged."""

import json
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from minillm.bench.training import ceiling, contestants, race
from minillm.bench.training.settings import SETTINGS, Setting
from minillm.cli.app import build_app


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SETTINGS, "tiny", Setting(1, 2, 16, 8, 4))
    monkeypatch.setattr(ceiling, "SIZE", 64)
    monkeypatch.setattr(contestants, "kernel_obstacle", lambda model, dtype: "not here")


def test_the_report_has_a_line_for_each_contestant():
    report = race.measure(["tiny"], rounds=3, steps=2, compile=False, dtype="bf16")
    assert json.loads(json.dumps(report)) == report
    assert report["rounds"] == 3 and report["steps"] == 2 and report["threads"] >= 1
    (setting,) = report["settings"]
    assert setting["name"] == "tiny" and setting["tokens"] == 4 * 8 * 2 * (3 + 1)
    rows = setting["contestants"]
    assert [(row["name"], row["dtype"], row["compiled"], row["kernel"]) for row in rows] == [
        ("nanogpt", "fp32", False, False), ("nanogpt", "bf16 autocast", False, False), ("ours", "bf16", False, False)]
    assert report["peak_gflops"].keys() == {"bf16", "fp32"} and min(report["peak_gflops"].values()) > 0
    for row in rows:
        assert row["tokens_per_s"] > 0 and row["gflops"] > 0 and row["step_ms"] > 0 and len(row["ratios"]) == 3
        assert min(row["ratios"]) <= row["ratio"] <= max(row["ratios"])
    assert rows[0]["ratios"] == [1.0] * 3, "the yardstick is not the first"
    # the same weights and batches: the losses differ by rounding
    assert all(abs(row["loss_before"] - rows[0]["loss_before"]) < 0.01 for row in rows)
    assert all(abs(row["loss"] - rows[0]["loss"]) < 0.02 for row in rows)
    text = race.race_text(report)
    assert "nanogpt bf16 autocast" in text and "256 tokens" in text and "kernel" not in text
    report["settings"][0]["contestants"][2] |= {"kernel": True, "gflops": 30.0}
    text = race.race_text(report | {"peak_gflops": {"bf16": 40.0, "fp32": 7.0}})
    assert "a large matrix product: 40 GFLOP/s in bf16, 7 GFLOP/s in fp32" in text
    (line,) = (line for line in text.splitlines() if "ours bf16, kernel" in line)
    assert "30 GFLOP/s, 75% of that" in line


def test_the_kernel_is_a_contestant_where_it_can_be(monkeypatch):
    asked, entered = [], []

    @contextmanager
    def computed(state):
        entered.append(state.recipe.kernel)
        yield

    monkeypatch.setattr(contestants, "kernel_obstacle", lambda model, dtype: asked.append(dtype))
    monkeypatch.setattr(contestants, "computed_by_kernel", computed)
    (setting,) = race.measure(["tiny"], rounds=1, steps=1, compile=False, dtype="bf16")["settings"]
    assert [(row["name"], row["kernel"]) for row in setting["contestants"]] == [
        ("nanogpt", False), ("nanogpt", False), ("ours", False), ("ours", True)]
    assert asked == ["bf16"] and entered == [False, True]


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
