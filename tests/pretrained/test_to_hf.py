r"""A folder written by `to_hf` is, to transformers, the same model and the same tokenizer."""

import dataclasses
import json
import random
import re

import pytest
import torch
import transformers
from safetensors import safe_open

from minillm.config import (
    Alibi,
    AttentionOptions,
    Ends,
    Glu,
    Llama3Scaling,
    Mlp,
    NtkAware,
    PositionInterpolation,
    Rope,
    Yarn,
)
from minillm.inference.generate import generate
from minillm.inference.quantization.convert import quantize_model
from minillm.model.encoder import Encoder
from minillm.model.gpt import GPT
from minillm.pretrained import from_hf
from minillm.pretrained.to_hf import to_hf
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.words import WordTokenizer
from tests.pretrained.random_llama import greedy, loaded_by_transformers, random_llama

WORDS = WordTokenizer([f"w{i}" for i in range(15)])


def the_same(model: GPT, directory, tolerance: float = 1e-4) -> None:
    r"""transformers' logits, and its greedy continuation, are ours; and `from_hf` reads the folder back."""
    hf_model = loaded_by_transformers(directory)
    token_ids = torch.randint(model.config.vocab_size, (2, 20))
    with torch.no_grad():
        ours, theirs = model(token_ids), hf_model(token_ids).logits
    torch.testing.assert_close(theirs, ours, atol=tolerance, rtol=0)
    assert ours.std() > 0.1
    assert torch.equal(greedy(hf_model, token_ids, 20), generate(model, token_ids, 20, temperature=0.0))
    back = from_hf(hf_model)
    assert dataclasses.replace(back.config, max_seq_len=model.config.max_seq_len, init=model.config.init) == \
        model.config
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("round", range(3))
def test_same_logits_and_greedy_ids(round, fresh_seed, tmp_path):
    torch.manual_seed(fresh_seed)
    model = random_llama(fresh_seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    to_hf(model, ByteTokenizer() if model.config.vocab_size >= 256 else WORDS, tmp_path / "new" / "folder")
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 0)
    (tmp_path / "new" / "folder" / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    the_same(model, tmp_path / "new" / "folder")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("changes", [
    dict(attention=AttentionOptions(qkv_bias=True, o_bias=True), ffn=Glu(12, bias=True)),
    dict(ffn=Glu(12, "gelu_tanh")), dict(ffn=Glu(12, "gelu")), dict(ffn=Glu(12, "relu_squared")),
    dict(position=Rope(scaling=PositionInterpolation(3.0))),
    dict(position=Rope(scaling=Llama3Scaling(2.0, 0.5, 4.0, 12))),
    dict(position=Rope(scaling=Yarn(2.0, 12, 4.0, 0.5, None, False))),
    dict(position=Rope(scaling=Yarn(2.0, 12, amplitude=0.8))),
], ids=lambda changes: str(next(iter(changes.values()))))  # fmt: skip
def test_choices_that_a_llama_has(changes, fresh_seed, tmp_path):
    torch.manual_seed(fresh_seed)
    model = random_llama(fresh_seed, head_dim=8, **changes)
    to_hf(model, ByteTokenizer(), tmp_path)
    the_same(model, tmp_path)


@pytest.mark.parametrize("weights, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_narrower_weights(weights, dtype, fresh_seed, tmp_path):
    torch.manual_seed(fresh_seed)
    model = random_llama(fresh_seed)
    to_hf(model, ByteTokenizer(), tmp_path, weights)
    assert transformers.AutoConfig.from_pretrained(tmp_path).dtype == dtype
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}
    the_same(model.to(dtype).float(), tmp_path)


@pytest.mark.parametrize("field, value, changes", [
    ("position", "Alibi", dict(position=Alibi())), ("position.share", "0.5", dict(position=Rope(share=0.5))),
    ("position.scaling", "NtkAware", dict(position=Rope(scaling=NtkAware(2.0)))),
    ("residual", "'parallel'", dict(residual="parallel")), ("ffn", "Mlp", dict(ffn=Mlp(16))),
    ("attention.window", "8", dict(attention=AttentionOptions(window=8))),
    ("attention.qk_norm", "True", dict(attention=AttentionOptions(qk_norm=True))),
    ("attention.scale", "0.1", dict(attention=AttentionOptions(scale=0.1))),
    ("attention", "qkv_bias=True", dict(attention=AttentionOptions(qkv_bias=True))),
    ("ends.logit_scale", "0.5", dict(ends=Ends(logit_scale=0.5))),
    ("ends.head_bias", "True", dict(ends=Ends(head_bias=True))),
], ids=str)  # fmt: skip
def test_what_is_no_llama_is_refused_by_name(field, value, changes, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"model.config.{field}=") + f".*{value}"):
        to_hf(random_llama(0, head_dim=8, **changes), WORDS, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_other_refusals(tmp_path):
    model = random_llama(0)
    with pytest.raises(TypeError, match="Encoder"):
        to_hf(Encoder(model.config), WORDS, tmp_path)
    with pytest.raises(ValueError, match="weights='int8'.*fp32, bf16, fp16"):
        to_hf(model, WORDS, tmp_path, "int8")
    with pytest.raises(ValueError, match="quantized.*weights='fp32'"):
        to_hf(quantize_model(model, "int8"), WORDS, tmp_path)
    with pytest.raises(ValueError, match="layer"):
        to_hf(random_llama(0, norm=dataclasses.replace(model.config.norm, kind="layer")), WORDS, tmp_path)
    with pytest.raises(ValueError, match="n_heads=6.*d_model=32"):
        to_hf(random_llama(0, n_heads=6, n_kv_heads=3, d_model=32), WORDS, tmp_path)
    wide = random_llama(0)
    wide.tok_emb.weight.data[3, 1] = 1e5
    with pytest.raises(ValueError, match="embed_tokens.*1e\\+05.*float16"):
        to_hf(wide, WORDS, tmp_path, "fp16")
    adapted = random_llama(0)
    adapted.blocks[0].attn.q_proj.register_parameter("lora_a", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(ValueError, match="lora_a.*merge"):
        to_hf(adapted, WORDS, tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="not empty"):
        to_hf(model, WORDS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_words_are_ids_only(tmp_path):
    model = random_llama(random.randrange(999), vocab_size=WORDS.vocab_size)
    exported = to_hf(model, WORDS, tmp_path)
    assert [path.name for path in exported.files] == ["config.json", "model.safetensors"]
    assert "WordTokenizer" in exported.notes[0] and "token ids" in exported.notes[0]
