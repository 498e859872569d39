r"""The command train and our kernel: used where it can be, refused with the reason, and no part of the seconds."""

import json
import time

import pytest
import torch
from typer.testing import CliRunner

from minillm.cli import app
from minillm.training import checkpoint
from tests.training.standing_in import stand_in

SMALL = ("--tokenizer", "characters", "--seq-len", "16", "--batch-size", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    r"""Each test has a folder to itself, with a little text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verse.txt").write_text("".join(f"{i} and {i} make {2 * i}.\n" for i in range(200)), encoding="utf-8")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train(*words, dtype="bf16"):
    r"""A short run of the command."""
    options = () if "--resume" in words else ("--corpus", "verse.txt", "--dtype", dtype, *SMALL)
    return CliRunner().invoke(app.build_app(), ["train", *options, *words, "--json"])


def report(*words, dtype="bf16"):
    r"""What it prints."""
    result = train(*words, dtype=dtype)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_it_is_used_where_it_can_be(monkeypatch):
    blocks = stand_in(monkeypatch)
    got = report("--steps", "2", "--seed", "1")
    n_calls = blocks.n_calls
    assert got["kernel"] is True and got["dtype"] == "bf16" and n_calls > 0
    assert checkpoint.load(got["out"])[2]["settings"]["kernel"] is True
    without = report("--steps", "2", "--seed", "1", "--no-kernel")
    assert without["kernel"] is False and blocks.n_calls == n_calls
    assert without["losses"] == got["losses"]
    assert report("--steps", "2", "--recompute")["kernel"] is False and blocks.n_calls == n_calls


def test_what_it_left_to_pytorch_is_said(monkeypatch):
    blocks = stand_in(monkeypatch)
    assert "kernel_share" not in report("--steps", "2") and blocks.n_calls > 0
    n_calls = blocks.n_calls
    got = report("--steps", "2", "--seq-len", "7")
    assert (got["kernel"], got["kernel_share"]) == (False, 0.0) and blocks.n_calls == n_calls
    assert "kernel_share" not in report("--steps", "2", "--seq-len", "7", "--no-kernel")
    text = CliRunner().invoke(app.build_app(), [
        "train", "--corpus", "verse.txt", "--dtype", "bf16", *SMALL, "--steps", "1", "--seq-len", "7"]).stdout
    assert "our kernel computed 0.0% of the blocks' forward passes, PyTorch the others" in text


def test_where_it_cannot_be_pytorch_does_it_all_unless_it_was_asked_for(monkeypatch):
    blocks = stand_in(monkeypatch, lambda: "there is no compiler")
    assert report("--steps", "1")["kernel"] is False and blocks.n_calls == 0
    refused = train("--steps", "1", "--kernel")
    assert isinstance(refused.exception, ValueError)
    assert str(refused.exception) == "--kernel: there is no compiler; leave it out, and PyTorch computes all"
    for words, message in (
        (("--kernel", "--compile"), "kernel=True: goes together with neither compile nor recompute"),
        (("--kernel", "--lora"), "--kernel"),
    ):
        assert message in str(train("--steps", "1", *words).exception)


def test_a_run_goes_on_as_it_began_unless_the_machine_cannot(monkeypatch):
    reasons = []
    blocks = stand_in(monkeypatch, lambda: reasons[0] if reasons else None)
    with_it, without = report("--steps", "1", "--out", "a"), report("--steps", "1", "--no-kernel", "--out", "b")
    n_calls = blocks.n_calls
    assert (with_it["kernel"], without["kernel"]) == (True, False)
    assert report("--resume", "b", "--steps", "2")["kernel"] is False and blocks.n_calls == n_calls
    assert report("--resume", "a", "--steps", "2")["kernel"] is True and blocks.n_calls == 2 * n_calls
    reasons.append("there is no compiler")
    result = train("--resume", "a", "--steps", "3")
    assert result.exit_code == 0 and json.loads(result.stdout)["kernel"] is False and blocks.n_calls == 2 * n_calls
    assert "--resume a: goes on in PyTorch alone, without our kernel: there is no compiler" in result.stderr


def test_building_it_is_no_part_of_the_seconds(monkeypatch):
    clock, late, built = time.perf_counter, [0.0], []

    def built_slowly():
        late[0] += 0.0 if built else 10_000.0
        built.append(True)

    stand_in(monkeypatch, built_slowly)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])
    got = report("--steps", "1", "--kernel", "--out", "a")
    assert got["kernel"] is True and 0 < got["seconds"] < 10_000
    built.clear()  # as on another machine
    assert report("--resume", "a", "--steps", "2")["seconds"] < 10_000 and late[0] == 20_000
