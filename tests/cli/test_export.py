r"""The command `export`: what it writes, what it says, what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from minillm.cli import app
from minillm.config import preset
from minillm.inference.generate import generate
from minillm.model.gpt import GPT
from minillm.pretrained.loading import load_model
from minillm.text.bpe import BPETokenizer
from minillm.text.words import WordTokenizer
from minillm.training import checkpoint
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from tests.pretrained.random_llama import greedy, loaded_by_transformers, random_llama


def export(*words: str):
    r"""Run the command."""
    return CliRunner().invoke(app.build_app(), ["export", *words])


@pytest.fixture
def bpe_run(tmp_path, monkeypatch, fresh_seed):
    r"""A folder with runs/mine, a LLaMA-shaped model with a byte-level BPE; its model."""
    monkeypatch.chdir(tmp_path)
    tokenizer = BPETokenizer.from_text("a rose is a rose is a rose", 260)
    model = random_llama(fresh_seed, vocab_size=tokenizer.vocab_size)
    checkpoint.save("runs/mine", TrainingState(model, Recipe(dtype="fp32")), tokenizer)
    return model.eval()


def test_a_checkpoint_becomes_a_folder_that_transformers_loads(bpe_run, fresh_seed):
    report = json.loads(export("out", "--to", "hf", "--json").stdout)
    assert Path(report["source"]) == Path("runs/mine") and report["notes"] == []
    assert {Path(name).name: size for name, size in report["files"].items()} == {
        path.name: path.stat().st_size for path in Path("out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} < {path.name for path in Path("out").iterdir()}
    token_ids = torch.randint(256, (1, 8), generator=torch.Generator().manual_seed(fresh_seed))
    theirs = greedy(loaded_by_transformers(Path("out")), token_ids, 12)
    assert torch.equal(theirs, generate(bpe_run, token_ids, 12, temperature=0.0))


def test_a_checkpoint_becomes_a_file(bpe_run):
    said = export("out", "--to", "gguf", "--weights", "q8_0", "--checkpoint", "runs/mine").stdout
    (path,) = Path("out").iterdir()
    assert path.name == "model-q8_0.gguf" and str(path) in said and "Note: GGUF can name only" in said
    assert load_model(path, device="cpu").config.d_model == bpe_run.config.d_model


def test_a_file_becomes_a_folder(bpe_run):
    export("gguf", "--to", "gguf")
    said = export("hf", "--to", "hf", "--weights", "fp16", "--model", "gguf/model-f16.gguf").stdout
    assert "model.safetensors" in said
    ours = {name: tensor.half().float() for name, tensor in bpe_run.state_dict().items() if tensor.dim() > 1}
    read = load_model("hf", device="cpu").state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in ours.items())


def test_words_are_ids_only_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = WordTokenizer([f"w{i}" for i in range(15)])
    model = random_llama(1, vocab_size=tokenizer.vocab_size)
    checkpoint.save("run", TrainingState(model, Recipe(dtype="fp32")), tokenizer)
    for to in ("hf", "gguf"):
        assert "Note: WordTokenizer is no byte-level BPE" in export(to, "--to", to, "--checkpoint", "run").stdout
    assert not list(Path("hf").glob("tokenizer*"))


def test_what_is_no_llama_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("run", TrainingState(GPT(preset("tiny")), Recipe(dtype="fp32")), WordTokenizer(["a"]))
    with pytest.raises(ValueError, match=r"model.config.position=Learned\(\).*use Rope\(\)"):
        raise export("out", "--to", "gguf", "--checkpoint", "run").exception
    assert not Path("out").exists()


@pytest.mark.parametrize("words, why", [
    (("out", "--to", "onnx"), "--to onnx: use hf or gguf"),
    (("runs", "--to", "hf"), "runs is not empty"),
    (("out", "--to", "hf", "--weights", "q8_0"), "weights='q8_0'.*fp32, bf16, fp16"),
    (("out", "--to", "gguf", "--weights", "fp32"), "weights='fp32'.*f16, q8_0"),
    (("out", "--to", "gguf", "--model", "smollm2", "--checkpoint", "runs/mine"), "two models; give one of them"),
])  # fmt: skip
def test_refusals(bpe_run, words, why):
    with pytest.raises(ValueError, match=why):
        raise export(*words).exception
    assert not Path("out").exists()
