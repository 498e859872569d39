r"""Mistral: same logits as transformers, with and without its sliding window."""

import random

import pytest

from tests.pretrained.parity import check_family, check_refused, foreign_model, llama_sizes, rope_parameters

SMALL = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=12)


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("kind", ["default", "yarn"])
def test_parity(window, kind, fresh_seed):
    draw = random.Random(fresh_seed)
    drawn = llama_sizes(draw) | dict(sliding_window=window)
    drawn["rope_parameters"] = rope_parameters(kind, draw, drawn["head_dim"])
    check_family(foreign_model("MistralForCausalLM", fresh_seed, **drawn), fresh_seed)


@pytest.mark.parametrize("option, value", [
    ("sliding_window", 0), ("attention_bias", True), ("layer_types", ["full_attention", "sliding_attention"]),
    ("hidden_act", "mish"),
])  # fmt: skip
def test_refused(option, value):
    check_refused("MistralForCausalLM", option, **SMALL | {option: value})
