r"""Directories that transformers writes, and what is refused of those that it did not write."""

import dataclasses
import json
import pickle
import random

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minillm.pretrained import FAMILIES, from_hf
from minillm.pretrained.hf_directory import config_defaults
from minillm.pretrained.loading import load_model
from tests.pretrained.parity import VOCABULARY, foreign_model, llama_sizes, reference_logits

SMALL = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=12)
CLASSES = {
    "LlamaForCausalLM": SMALL, "MistralForCausalLM": SMALL | dict(num_key_value_heads=1),
    "Qwen2ForCausalLM": SMALL | dict(num_key_value_heads=1),
    "Qwen3ForCausalLM": SMALL | dict(num_key_value_heads=1, head_dim=8),
    "PhiForCausalLM": SMALL, "GPTNeoXForCausalLM": SMALL,
    "GPT2LMHeadModel": dict(n_embd=16, n_head=2, n_layer=2),
    "BloomForCausalLM": dict(hidden_size=16, n_head=2, n_layer=2),
    "OPTForCausalLM": dict(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=2, ffn_dim=12, word_embed_proj_dim=16),
    "DeepseekV3ForCausalLM": SMALL | dict(
        num_key_value_heads=2, first_k_dense_replace=2, q_lora_rank=None, kv_lora_rank=6, qk_rope_head_dim=4,
        qk_nope_head_dim=6, v_head_dim=5),
    "T5ForConditionalGeneration": dict(d_model=16, d_kv=8, d_ff=12, num_layers=2, num_heads=2),
}  # fmt: skip


def written(folder, hf_model, **changes):
    r"""The model's directory, with some options changed afterwards; None takes one away."""
    hf_model.save_pretrained(folder)
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    kept = {name: value for name, value in config.items() if name not in changes or value is not None}
    path.write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_what_is_read_is_what_from_hf_makes(name, tied, tmp_path, fresh_seed):
    hf_model = foreign_model(name, fresh_seed, tie_word_embeddings=tied, **CLASSES[name])
    want = from_hf(hf_model)
    model = load_model(written(tmp_path, hf_model), device="cpu")
    assert not model.training
    ours, theirs = (dict(each.named_parameters(remove_duplicate=False)) for each in (model, want))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[each], theirs[each]) for each in ours)
    assert len(list(model.parameters())) == len(list(want.parameters())), "what is tied is one"
    known = want.config, model.config
    assert known[0] == dataclasses.replace(known[1], max_seq_len=known[0].max_seq_len)


def test_every_family_s_defaults_are_those_of_its_class():
    assert config_defaults().keys() == FAMILIES.keys()
    for family, defaults in config_defaults().items():
        made = type(transformers.AutoConfig.for_model(family))
        fields = {field.name: field for field in dataclasses.fields(made)}
        for name, value in defaults.items():
            assert name in fields
            assert value is None or getattr(made(), name) == value, f"{family}.{name}"


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_as_it_was_written_before_transformers_5(tied, tmp_path, fresh_seed):
    draw = random.Random(fresh_seed)
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 123456.0}
    hf_model = foreign_model("LlamaForCausalLM", fresh_seed, rope_parameters=rope, **llama_sizes(draw))
    old = dict(
        rope_parameters=None, rope_theta=123456.0, rope_scaling={"type": "linear", "factor": 4.0}, mlp_bias=None,
        rope_interleaved=False, is_llama_config=True, dtype=None, torch_dtype="float32", attention_bias=None,
        pretraining_tp=None)
    model = load_model(written(tmp_path, hf_model, **old), device="cpu")
    ids = torch.randint(VOCABULARY, (2, 11))
    want = reference_logits(hf_model, ids, torch.ones(2, 11, dtype=torch.bool))
    torch.testing.assert_close(model(ids), want, atol=1e-4, rtol=0)
    assert model.config.max_seq_len == hf_model.config.max_position_embeddings


def test_several_files(tmp_path):
    hf_model = foreign_model("LlamaForCausalLM", 0, **SMALL)
    hf_model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = torch.randint(VOCABULARY, (1, 7))
    torch.testing.assert_close(load_model(tmp_path, device="cpu")(ids), from_hf(hf_model)(ids))


@pytest.mark.parametrize("weights, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_dtype_is_what_was_asked_for(weights, dtype, tmp_path):
    hf_model = foreign_model("LlamaForCausalLM", 0, **SMALL)
    model = load_model(written(tmp_path, hf_model), weights, "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.equal(model.tok_emb.weight, hf_model.model.embed_tokens.weight.to(dtype))


@pytest.mark.parametrize("changes, message", [
    (dict(model_type="cohere"), "model_type='cohere'"), (dict(model_type=None), "model_type=None"),
    (dict(model_type=["llama"]), "model_type="), (dict(num_hidden_layers=10**12), "num_hidden_layers=1000000000000"),
    (dict(hidden_size=10**9), "hidden_size=1000000000"), (dict(head_dim=2**62), "head_dim=4611686018427387904"),
    (dict(vocab_size=10**11), "wants .* weights"), (dict(hidden_size="wide"), "config.json"),
    (dict(num_attention_heads=0), "config.json"), (dict(rms_norm_eps=-1.0), "rms_norm_eps"),
    (dict(rope_parameters={"rope_type": "spiral"}), "rope_parameters"), (dict(rope_parameters=7), "config.json"),
    (dict(rope_interleaved=True), "rope_interleaved"), (dict(an_option_of_tomorrow=1), "an_option_of_tomorrow"),
    (dict(num_hidden_layers=1), "left over"), (dict(num_hidden_layers=3), "missing"),
])  # fmt: skip
@pytest.mark.unchecked
def test_a_configuration_that_does_not_fit_is_refused(changes, message, tmp_path):
    folder = written(tmp_path, foreign_model("LlamaForCausalLM", 0, **SMALL), **changes)
    with pytest.raises(ValueError, match=message) as raised:
        load_model(folder, device="cpu")
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "MixtralForCausalLM"])
def test_families_whose_files_name_their_weights_otherwise_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="model_type='(bert|mixtral)'.*from_hf"):
        load_model(written(tmp_path, foreign_model(name, 0, **SMALL)), device="cpu")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100000])
def test_what_is_no_json_object_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json"):
        load_model(tmp_path, device="cpu")


def test_a_pickle_is_not_opened(tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "harmed"), "w")

    folder = written(tmp_path, foreign_model("LlamaForCausalLM", 0, **SMALL))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="model.safetensors.*not opened"):
        load_model(folder, device="cpu")
    (folder / "model.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="no safetensors"):
        load_model(folder, device="cpu")
    assert not (tmp_path / "harmed").exists()


def test_damaged_weights_are_refused(tmp_path, fresh_seed):
    draw, folder = random.Random(fresh_seed), written(tmp_path, foreign_model("LlamaForCausalLM", 0, **SMALL))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in [0, 3, 8, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(10))]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no safetensors"):
            load_model(folder, device="cpu")
    path.write_bytes((2**60).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ValueError, match="no safetensors"):
        load_model(folder, device="cpu")
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file({**tensors, "model.norm.weight": torch.ones(16, dtype=torch.int64)}, path)
    with pytest.raises(ValueError, match="model.norm.weight is torch.int64"):
        load_model(folder, device="cpu")
    save_file({**tensors, "model.norm.weight": torch.ones(15)}, path)
    with pytest.raises(ValueError, match=r"final_norm.*\(15,\).*\(16,\)"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/hostname", "absent.safetensors", ""])
def test_an_index_names_files_beside_it_only(name, tmp_path):
    folder = written(tmp_path, foreign_model("LlamaForCausalLM", 0, **SMALL))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ValueError, match="no such file"):
        load_model(folder, device="cpu")
