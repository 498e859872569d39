r"""LLaMA: same logits as transformers for every option and every type of RoPE."""

import random

import pytest
import torch

from minillm.pretrained import from_hf
from tests.pretrained.parity import (
    CHANGING,
    ROPE_TYPES,
    TRAINED_LEN,
    VOCABULARY,
    check_family,
    check_refused,
    foreign_model,
    llama_sizes,
    refuses_cache,
    rope_parameters,
)

SMALL = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=12)


@pytest.mark.parametrize("kind", ROPE_TYPES)
@pytest.mark.parametrize("round", range(3))
def test_parity(kind, round, fresh_seed):
    draw = random.Random(fresh_seed)
    drawn = llama_sizes(draw) | {bias: draw.random() < 0.5 for bias in ("attention_bias", "mlp_bias")}
    drawn["rope_parameters"] = rope_parameters(kind, draw, drawn["head_dim"])
    hf_model = foreign_model("LlamaForCausalLM", fresh_seed, **drawn)
    check_family(hf_model, fresh_seed, cached=kind not in CHANGING)
    if kind in CHANGING:
        refuses_cache(hf_model)
        check_family(hf_model, fresh_seed, seq_len=TRAINED_LEN - 7, cached=False)  # not longer than in training


@pytest.mark.parametrize("kind", ["default", "yarn", "llama3"])
def test_far_positions(kind, fresh_seed):
    draw = random.Random(fresh_seed)
    given = rope_parameters(kind, draw, 8)
    hf_model = foreign_model("LlamaForCausalLM", fresh_seed, **SMALL, rope_parameters=given)
    ids, positions = torch.randint(VOCABULARY, (1, 20)), torch.arange(4000, 4020)
    with torch.no_grad():  # far out the last bit of a frequency counts
        want, got = hf_model(ids, position_ids=positions[None]).logits, from_hf(hf_model)(ids, positions=positions)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_sizes_that_follow_from_others(fresh_seed):
    check_family(foreign_model("LlamaForCausalLM", fresh_seed, **SMALL), fresh_seed)


@pytest.mark.parametrize("option, value", [
    ("hidden_act", "laplace"), ("an_option_of_tomorrow", 3), ("sliding_window", 8), ("logit_scale", 0.5),
    ("rms_norm_eps", 0.0), ("quantization_config", {"bits": 4}),
])  # fmt: skip
def test_refused(option, value):
    check_refused("LlamaForCausalLM", option, **SMALL | {option: value})


@pytest.mark.parametrize("given, reason", [
    (dict(rope_type="default", partial_rotary_factor=0.5), "partial_rotary_factor"),
    (dict(rope_type="default", mrope_section=[1, 1, 2]), "mrope_section"),
    (dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=4), "beta_slow"),
    (dict(rope_type="yarn", factor=2.0, beta_fast=1.0, beta_slow=2.0), "beta_fast"),
    (dict(rope_type="llama3", factor=2.0, low_freq_factor=2.0, high_freq_factor=1.0), "high_freq_factor"),
    (dict(rope_type="linear", factor=-1.0), "factor"),
], ids=str)  # fmt: skip
def test_rotations_that_are_refused(given, reason):
    given = {"rope_theta": 1e4} | given
    check_refused("LlamaForCausalLM", f"rope_parameters.*{reason}", **SMALL, rope_parameters=given)
