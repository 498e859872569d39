r"""The command train, end to end: what it prints, where it writes, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from minillm.cli import app, corpora, runs
from minillm.config import preset
from minillm.model.counting import count_parameters
from minillm.text.stories import StoryLanguage
from minillm.training import checkpoint

FAST = ("--dtype", "fp32", "--batch-size", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    r"""Each test has a folder to itself, and judges its models briefly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpora, "N_STORIES", 20)
    monkeypatch.setattr(corpora, "N_SAMPLES", 5)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def minillm(*words: str | Path):
    r"""Run a command in this process; its output, exit code and exception."""
    return CliRunner().invoke(app.build_app(), [str(word) for word in words])


def report(*words: str | Path) -> dict:
    r"""Run a command with --json and read what it prints."""
    result = minillm(*words, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def refusal(*words: str | Path) -> str:
    r"""Run a command that must refuse; its message."""
    result = minillm(*words)
    assert result.exit_code != 0
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, ValueError), result.exception
        return str(result.exception)
    return result.output


@pytest.fixture
def text_file(tmp_path):
    r"""A little text of our own."""
    path = tmp_path / "verse.txt"
    path.write_text("".join(f"{i} and {i} make {2 * i}.\n" for i in range(200)), encoding="utf-8")
    return path


def test_the_whole_command_in_a_process_of_its_own(tmp_path):
    root = Path(__file__).parents[2]
    # Four seconds: what comes before the first step counts too, and took 1.1 on a machine that had much else to do.
    command = [sys.executable, "-m", "minillm", "train", "--seconds", "4", "--json", "--out", str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr
    got = json.loads(run.stdout)
    language = StoryLanguage()
    config = preset("tiny", vocab_size=len(language.vocabulary), max_seq_len=language.max_len - 1)
    assert got["params"] == count_parameters(config)["total"]
    assert got["floor_nats_per_story"] == language.entropy() < got["nats_per_story"]
    assert got["n_samples"] >= 400 and 0 <= got["valid_fraction"] <= 1
    assert got["steps"] >= 1 and got["tokens"] > 0 and got["tokens_per_s"] > 0 and got["seconds"] > 0
    assert got["tokens_per_s"] == pytest.approx(got["tokens"] / got["seconds"], rel=0.01)
    assert got["threads"] >= 1 and isinstance(got["seed"], int) and got["dtype"] in ("fp32", "bf16")
    assert "nats/token over the floor" in run.stderr
    model, tokenizer, about = checkpoint.load(tmp_path / "run")
    assert model.config == config and about["settings"]["seed"] == got["seed"]
    assert tokenizer.to_dict() == language.tokenizer.to_dict()


def test_a_seed_decides_everything_and_none_is_a_fresh_one():
    first, second, third = (report("train", "--steps", "2", *FAST, *seed) for seed in (
        ("--seed", "7"), ("--seed", "7"), ()))
    assert first["nats_per_story"] == second["nats_per_story"] != third["nats_per_story"]
    assert first["seed"] == 7 and third["seed"] != 7
    assert [Path(each["out"]) for each in (first, second, third)] == [
        Path("runs/stories"), Path("runs/stories-2"), Path("runs/stories-3")]


def test_activations_computed_twice_change_nothing_but_memory():
    once, twice = (report("train", "--steps", "3", *FAST, "--seed", "7", "--dtype", "fp32", *extra) for extra in (
        (), ("--recompute",)))
    assert once["losses"] == twice["losses"]
    index = json.loads((Path(twice["out"]) / "checkpoint.json").read_text())
    assert index["recipe"]["recompute"] is True


def test_without_json_it_prints_lines_to_read():
    result = minillm("train", "--steps", "1", *FAST, "--seed", "3", "--out", "here")
    lines = result.stdout.splitlines()
    assert "seed 3" in lines[0] and "nats a story" in lines[1] and "stories that it told" in lines[2]
    assert "python -m minillm chat --checkpoint here" in lines[3]


def test_an_interrupted_run_goes_on_to_the_same_end(monkeypatch):
    whole = report("train", "--steps", "6", *FAST, "--seed", "5", "--out", "whole")
    from minillm.cli import training_run

    honest = training_run.train

    def breaks_off(model, batches, **settings):
        honest(model, batches, **{**settings, "callbacks": [*settings["callbacks"], Break()]})

    class Break:
        def on_step(self, info):
            if info["step"] == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "train", breaks_off)
    result = minillm("train", "--steps", "6", *FAST, "--seed", "5", "--out", "part", "--save-every", "0.000001")
    assert result.exit_code != 0
    monkeypatch.setattr(training_run, "train", honest)
    assert checkpoint.load("part")[2]["run"]["step"] == 4
    resumed = report("train", "--resume", "part")
    assert resumed["steps"] == 6 and resumed["out"] == "part" and resumed["seed"] == 5
    assert resumed["nats_per_story"] == whole["nats_per_story"]
    longer = report("train", "--resume", "part", "--steps", "8", "--out", "longer")
    assert longer["steps"] == 8 and checkpoint.load("part")[2]["run"]["step"] == 6
    assert "steps=6: the run has had 6 steps" in refusal("train", "--resume", "part")


@pytest.mark.parametrize(("tokenizer", "n_tokens"), [("bpe", 300), ("bytes", 256), ("characters", 19)])
def test_a_text_of_your_own(text_file, tokenizer, n_tokens):
    options = ("--tokenizer", tokenizer, "--vocab-size", "300", "--seq-len", "16")
    got = report("train", "--corpus", text_file, "--steps", "3", *options, *FAST)
    model, own, _ = checkpoint.load(got["out"])
    assert Path(got["out"]) == Path("runs/verse")
    assert model.config.vocab_size == own.vocab_size == n_tokens and model.config.max_seq_len == 16
    assert got["n_bytes"] == pytest.approx(len(text_file.read_bytes()) / 10, rel=0.05)
    assert got["bits_per_byte"] > 0 and got["perplexity"] > 1
    again = report("eval", "--checkpoint", got["out"])
    assert again["bits_per_byte"] == pytest.approx(got["bits_per_byte"])
    here = report("eval", "--checkpoint", got["out"], "--text", text_file)
    assert here["n_bytes"] == len(text_file.read_bytes()) and here["corpus"] == str(text_file)
    written = report("generate", "1 and", "--max-new-tokens", "5", "--seed", "1")["texts"][0]
    assert written.startswith("1 and") and len(written) > 5
    text_file.write_text(text_file.read_text() + "more\n")
    assert "is no longer the one" in refusal("train", "--resume", got["out"], "--steps", "9")


def test_python_s_documentation():
    got = report("train", "--corpus", "python-docs", "--steps", "1", "--tokenizer", "bytes", "--seq-len", "64", *FAST)
    assert got["corpus"] == "python-docs" and got["n_bytes"] > 10_000


@pytest.mark.parametrize(("options", "message"), [
    (("--corpus", "nowhere.txt"), "'nowhere.txt' does not exist"),
    (("--device", "tpu"), "--device tpu: use one of ['auto', 'cpu', 'cuda', 'mps']"),
    (("--dtype", "int8"), "dtype='int8': use one of"),
    (("--preset", "huge"), "name='huge': use one of"),
    (("--schedule", "steps"), "schedule='steps': use 'linear' or 'cosine'"),
    (("--learning-rate", "0"), "learning_rate=0.0"),
    (("--batch-size", "0"), "Invalid value for '--batch-size'"),
    (("--steps", "0"), "steps=0: the run has had 0 steps"),
    (("--seconds", "soon"), "Invalid value for '--seconds'"),
    (("--colour", "red"), "No such option"),
    (("--resume", "nowhere"), "nowhere is not a checkpoint: it has no checkpoint.json"),
    (("--resume", "nowhere", "--seed", "3", "--batch-size", "4"), "leave out --batch-size, --seed"),
    (("--corpus", "verse.txt", "--tokenizer", "runes"), "--tokenizer runes: use one of ['bpe', 'bytes', 'characters']"),
])  # fmt: skip
def test_wrong_options_are_refused_clearly(text_file, options, message):
    assert message in refusal("train", "--steps", "1", *options)
    assert not list(Path().glob("runs/*/*.safetensors"))


def test_no_run_writes_over_another(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    assert "--out mine is not empty" in refusal("train", "--steps", "1", "--out", "mine")
    (tmp_path / "file").write_text("")
    assert "--out file is not empty" in refusal("train", "--steps", "1", "--out", "file")
    assert "folder file" in refusal("train", "--steps", "1", "--out", "file/below")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert runs.new_run_dir(None, "some/book.txt") == Path("runs/book")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "mps"):
        message = refusal("train", "--device", device)
        assert f"--device {device}: this machine, or this build of torch, has none" in message
