r"""The command train in several processes: killed, resumed, read by the other commands; and what it refuses."""

import json
import shlex
import sys

import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from minillm.cli import app
from minillm.training import checkpoint
from minillm.training.distributed import launch
from minillm.training.distributed.ranks import Ranks
from tests.training.distributed.starting import torchrun


def minillm(*words):
    r"""Run a command in this process and read the JSON that it prints."""
    result = CliRunner().invoke(app.build_app(), [*map(str, words), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def refusal(*words):
    r"""The message of a command that must refuse."""
    result = CliRunner().invoke(app.build_app(), ["train", *map(str, words)])
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    text, out = tmp_path / "verse.txt", tmp_path / "run"
    text.write_text("".join(f"{i} and {i} make {2 * i}.\n" for i in range(200)), encoding="utf-8")
    options = ("train", "--corpus", text, "--tokenizer", "characters", "--seq-len", "16", "--batch-size", "4",
               "--steps", "6", "--seed", "3", "--dtype", "fp32", "--threads", "1")  # fmt: skip
    whole = minillm(*options, "--out", tmp_path / "whole")
    assert whole["parallel"] is None and whole["world_size"] == 1 and len(whole["losses"]) == 6

    killed = torchrun("-m", "tests.training.distributed.dying", *options, "--parallel", "fsdp", "--out", out,
                      "--save-every", "1e-9", "--json")
    assert killed.returncode != 0 and killed.stdout == ""
    assert len(list(out.glob("shards-*"))) == 2, "the last whole one, and what the killed one was writing"
    model, _, about = checkpoint.load(out)
    assert about["run"]["step"] == 2 and about["limits"]["steps"] == 6
    assert minillm("eval", "--checkpoint", out)["n_bytes"] == whole["n_bytes"]

    resumed = torchrun("-m", "minillm", "train", "--resume", out, "--parallel", "ddp", "--json")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert resumed.stdout.count("\n") == 1, "the first process alone prints"
    got = json.loads(resumed.stdout)
    assert got["parallel"] == "ddp" and got["world_size"] == 2 and got["steps"] == 6
    assert got["losses"] == pytest.approx(whole["losses"][2:], abs=1e-4)
    assert got["tokens"] == whole["tokens"]
    assert got["nats_per_token"] == pytest.approx(whole["nats_per_token"], abs=1e-4)
    assert resumed.stderr.count("100%") >= 1 and len(list(out.glob("shards-*"))) == 1
    judged = minillm("eval", "--checkpoint", out)
    assert judged["nats_per_token"] == pytest.approx(got["nats_per_token"], abs=1e-6)
    assert len(minillm("generate", "1 and", "--checkpoint", out, "--max-new-tokens", "3")["texts"][0]) > 5
    alone = minillm("train", "--resume", out, "--steps", "7", "--out", tmp_path / "alone")
    assert alone["steps"] == 7 and alone["world_size"] == 1
    assert set(model.state_dict()) == set(checkpoint.load(tmp_path / "alone")[0].state_dict())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_gpus_train_as_one(tmp_path, parallel):
    options = ("train", "--steps", "20", "--seed", "3", "--dtype", "fp32", "--device", "cuda")
    alone = minillm(*options, "--out", tmp_path / "alone")
    run = torchrun("-m", "minillm", *options, "--parallel", parallel, "--out", tmp_path / "together", "--json")
    assert run.returncode == 0, run.stderr[-3000:]
    got = json.loads(run.stdout)
    assert got["losses"] == pytest.approx(alone["losses"], abs=1e-4) and got["device"] == "cuda:0"


@pytest.mark.parametrize("gpus", [0, 4])
def test_without_torchrun_it_says_how_to_start(tmp_path, monkeypatch, gpus):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    words = ["train", "--parallel", "fsdp", "--out", "two words", "--steps", "3"]
    monkeypatch.setattr(sys, "argv", ["minillm", *words])
    line = next(line for line in refusal(*words[1:]).splitlines() if "torchrun --nproc" in line)
    assert shlex.split(line) == ["torchrun", "--nproc-per-node", str(gpus or 2), "-m", "minillm", *words]
    monkeypatch.setattr(sys, "argv", ["something else"])
    assert "-m minillm train --parallel ddp" in refusal("--parallel", "ddp")
    assert "--parallel zero: use one of ['ddp', 'fsdp']" in refusal("--parallel", "zero")
    assert not list(tmp_path.iterdir())


def test_torchrun_without_parallel_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    assert "each would train for itself; add --parallel" in refusal("--steps", "1")
    assert not list(tmp_path.iterdir())


def test_devices_that_do_not_suffice_are_refused(monkeypatch):
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(dist, "get_node_local_rank", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="fewer GPUs than torchrun has started processes; use --nproc-per-node 2"):
        with launch.joined("ddp", "cuda", []):
            pass
    with pytest.raises(ValueError, match="--device mps: several processes can train on cpu or cuda"):
        with launch.joined("ddp", "mps", []):
            pass


def test_a_batch_that_cannot_be_shared_is_refused():
    from minillm.cli.training_run import require_shares

    with pytest.raises(ValueError, match="--batch-size 5: 2 processes cannot share it evenly; .* of 2, such as 6"):
        require_shares(5, Ranks("ddp", 0, 2))
    require_shares(5, Ranks())
