r"""SmolLM2 out again: what transformers makes of the folder, and what we read back in the file, is the same model."""

import json
import shutil

import pytest
import torch
import transformers

from minillm.inference.generate import generate
from minillm.pretrained.loading import load_model, load_pretrained, load_tokenizer
from minillm.pretrained.to_gguf import to_gguf
from minillm.pretrained.to_hf import to_hf
from minillm.pretrained.weights_wheel import COMMAND, find_wheel_file
from tests.pretrained.random_llama import greedy, loaded_by_transformers

TALK = [{"role": "user", "content": "It's 2024: name 3 cities of España 🙂\n\n\tthey'll see <|im_end|>"}]


@pytest.fixture(scope="module")
def smollm2():
    r"""The model and its tokenizer."""
    if find_wheel_file() is None:
        pytest.skip(f"SmolLM2-135M is not installed: {COMMAND}")
    return load_pretrained("smollm2", device="cpu")


@pytest.fixture
def folder(tmp_path):
    r"""A folder to export to, which does not stay: it gets large."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_folder_for_transformers(smollm2, folder):
    model, tokenizer = smollm2
    assert not to_hf(model, tokenizer, folder, "bf16").notes
    theirs, reader = loaded_by_transformers(folder), transformers.AutoTokenizer.from_pretrained(folder)
    text = reader.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    ids = reader.encode(text)
    assert ids == tokenizer.encode(text) and "<|im_start|>assistant" in text
    ours, token_ids = load_model(folder, device="cpu"), torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(theirs(token_ids).logits, ours(token_ids), atol=1e-3, rtol=0)
    wanted = generate(ours, token_ids, 16, temperature=0.0, stop_ids=[tokenizer.eos_id], pad_id=0)
    got = greedy(theirs, token_ids, 16)
    assert torch.equal(got, wanted[:, : got.shape[1]])
    settings = json.loads((folder / "config.json").read_text())
    assert settings["max_position_embeddings"] == 8192 and settings["eos_token_id"] == tokenizer.eos_id
    assert load_tokenizer(folder).to_dict() == tokenizer.to_dict()


def test_a_file(smollm2, folder):
    model, tokenizer = smollm2
    (path,) = to_gguf(model, tokenizer, folder, "f16").files
    assert path.stat().st_size < 2.1 * sum(parameter.numel() for parameter in model.parameters())
    read = load_model(path, device="cpu")
    assert read.config == model.config and load_tokenizer(path).to_dict() == tokenizer.to_dict()
    token_ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.no_grad():
        assert (read(token_ids) - model(token_ids)).abs().max() < 0.1
    rows = read.blocks[3].attn.k_proj.weight, model.blocks[3].attn.k_proj.weight
    torch.testing.assert_close(*rows, atol=1e-6, rtol=2**-11)
