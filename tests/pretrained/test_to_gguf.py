r"""A GGUF file written by `to_gguf`: read by the gguf library and by transformers, the same model."""

import re
from pathlib import Path

import gguf
import pytest
import torch

from minillm.config import AttentionOptions, Glu, PositionInterpolation, Rope, preset
from minillm.inference.generate import generate
from minillm.inference.quantization.convert import quantize_model
from minillm.model.gpt import GPT
from minillm.pretrained.to_gguf import to_gguf
from minillm.text.bpe import BPETokenizer
from minillm.text.words import WordTokenizer
from tests.pretrained.random_llama import greedy, loaded_by_transformers, random_llama

PLACES = {"attn_q": "attn.q_proj", "attn_k": "attn.k_proj", "attn_v": "attn.v_proj", "attn_output": "attn.o_proj",
          "ffn_gate": "ffn.gate_proj", "ffn_up": "ffn.up_proj", "ffn_down": "ffn.down_proj",
          "attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}  # fmt: skip
WORDS = WordTokenizer([f"w{i}" for i in range(15)])
WIDE = dict(d_model=64, n_heads=4, n_kv_heads=2, head_dim=16, ffn=Glu(96))  # rows of Q8_0's groups


def rounded(model: GPT, path: Path) -> GPT:
    r"""The model with the numbers that the gguf library reads in the file, each of which is as near as its type can."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    layers = range(model.config.n_layers)
    places = {"token_embd": "tok_emb", "output": "lm_head", "output_norm": "final_norm"} | {
        f"blk.{i}.{theirs}": f"blocks.{i}.{ours}" for i in layers for theirs, ours in PLACES.items()}
    assert {name.removesuffix(".weight") for name in tensors} == set(places) - (
        {"output"} if model.config.tie_embeddings else set())
    for name, tensor in tensors.items():
        read = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        parameter = model.get_submodule(places[name.removesuffix(".weight")]).weight
        if "attn_q" in name or "attn_k" in name:  # within a head 0 h 1 h+1 ... for 0 1 ... h h+1 ...
            width = model.config.head_dim
            rows = torch.arange(len(read)).view(-1, width)
            read = read[torch.cat([rows[:, 0::2], rows[:, 1::2]], 1).flatten()]
        error = (read - parameter).abs()
        if tensor.tensor_type.name == "Q8_0":
            largest = parameter.unflatten(1, (-1, 32)).abs().amax(-1)
            assert (error.unflatten(1, (-1, 32)).amax(-1) <= largest * (0.5 / 127 + 2**-10)).all()
        else:
            assert (error <= parameter.abs() * (2**-11 if tensor.tensor_type.name == "F16" else 0) + 2**-25).all()
        with torch.no_grad():
            parameter.copy_(read)
    return model


@pytest.mark.parametrize("sizes", [{}, WIDE], ids=["any", "wide"])
@pytest.mark.parametrize("weights", ["f16", "q8_0"])
@pytest.mark.parametrize("tied", [True, False])
def test_same_logits_and_greedy_ids(weights, sizes, tied, fresh_seed, tmp_path):
    torch.manual_seed(fresh_seed)
    model = random_llama(fresh_seed, tie_embeddings=tied, **sizes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (path,) = to_gguf(model, WORDS, tmp_path / "new", weights).files
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [path] == list((tmp_path / "new").iterdir()) and path.name == f"model-{weights}.gguf"
    hf_model, ours = loaded_by_transformers(path.parent, path.name), rounded(model, path)
    token_ids = torch.randint(model.config.vocab_size, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(hf_model(token_ids).logits, ours(token_ids), atol=1e-4, rtol=0)
    assert torch.equal(greedy(hf_model, token_ids, 20), generate(ours, token_ids, 20, temperature=0.0))


@pytest.mark.parametrize("weights", ["f16", "q8_0"])
def test_what_the_gguf_library_reads(weights, tmp_path):
    model = random_llama(3, vocab_size=300, **WIDE)
    tokenizer = BPETokenizer.from_text("so,so,so,so,so", 256 + 8)
    exported = to_gguf(model, tokenizer, tmp_path, weights)
    (path,) = exported.files
    assert any("no end token" in note for note in exported.notes)
    reader = gguf.GGUFReader(path)
    types = {len(tensor.shape): tensor.tensor_type.name for tensor in reader.tensors}
    assert types == {1: "F32", 2: weights.upper()}
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama" and said["llama.vocab_size"] == 300
    assert said["llama.attention.head_count_kv"] == 2 and said["llama.rope.dimension_count"] == 16
    tokens, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == 300 and len(set(tokens)) == 300
    assert kinds == [1] * tokenizer.vocab_size + [5] * (300 - tokenizer.vocab_size)
    assert said["tokenizer.ggml.merges"][0] == "s o" and tokens[256] == "so"


def test_words_are_ids_only(tmp_path):
    exported = to_gguf(random_llama(4, vocab_size=WORDS.vocab_size), WORDS, tmp_path)
    said = {name: field.contents() for name, field in gguf.GGUFReader(exported.files[0]).fields.items()}
    assert "WordTokenizer" in exported.notes[0] and "token ids" in exported.notes[0]
    assert said["tokenizer.ggml.model"] == "no_vocab" and "tokenizer.ggml.tokens" not in said
    assert (said["tokenizer.ggml.bos_token_id"], said["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert said["tokenizer.ggml.padding_token_id"] == 0


def test_rows_that_make_no_groups_are_said(tmp_path):
    notes = to_gguf(random_llama(5, **WIDE | dict(ffn=Glu(40))), WORDS, tmp_path, "q8_0").notes
    assert any("ffn_down" in note and "float16" in note for note in notes)


def test_the_preset_that_can_be_exported_has_whole_groups(tmp_path):
    model = GPT(preset("tiny-llama", vocab_size=WORDS.vocab_size))
    for weights in ("f16", "q8_0"):
        assert not any("float16 as well" in note for note in to_gguf(model, WORDS, tmp_path / weights, weights).notes)


@pytest.mark.parametrize("field, value, changes", [
    ("ffn.activation", "'gelu'", dict(ffn=Glu(16, "gelu"))), ("ffn.bias", "True", dict(ffn=Glu(16, bias=True))),
    ("attention.qkv_bias", "True", dict(attention=AttentionOptions(qkv_bias=True, o_bias=True))),
    ("attention.o_bias", "True", dict(attention=AttentionOptions(o_bias=True))),
    ("position.scaling", "PositionInterpolation", dict(position=Rope(scaling=PositionInterpolation(2.0)))),
    ("attention.window", "8", dict(attention=AttentionOptions(window=8))),
], ids=str)  # fmt: skip
def test_what_a_file_cannot_say_is_refused_by_name(field, value, changes, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"model.config.{field}=") + f".*{value}"):
        to_gguf(random_llama(0, **changes), WORDS, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_other_refusals(tmp_path):
    model = random_llama(0)
    with pytest.raises(ValueError, match="weights='q4_0'.*f16, q8_0"):
        to_gguf(model, WORDS, tmp_path, "q4_0")
    with pytest.raises(ValueError, match="quantized.*weights='fp32'"):
        to_gguf(quantize_model(model, "int4"), WORDS, tmp_path / "new")
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="not empty"):
        to_gguf(model, WORDS, tmp_path)
    model.blocks[0].attn.v_proj.weight.data[0, 0] = -7e4
    with pytest.raises(ValueError, match="blk.0.attn_v.weight.*float16"):
        to_gguf(model, WORDS, tmp_path / "new")
    assert not (tmp_path / "new").exists()
