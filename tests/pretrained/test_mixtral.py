r"""Mixtral: same logits as transformers, every token by the same experts."""

import random

import pytest

from tests.pretrained.parity import check_family, check_refused, foreign_model, llama_sizes, rope_parameters

SMALL = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=12)


@pytest.mark.parametrize("n_experts, top_k", [(1, 1), (3, 1), (4, 2), (5, 5)])
@pytest.mark.parametrize("kind", ["default", "yarn"])
def test_parity(n_experts, top_k, kind, fresh_seed):
    draw = random.Random(fresh_seed)
    drawn = llama_sizes(draw) | dict(num_local_experts=n_experts, num_experts_per_tok=top_k)
    drawn |= dict(sliding_window=draw.choice([None, 4]), output_router_logits=draw.random() < 0.5)
    drawn["rope_parameters"] = rope_parameters(kind, draw, drawn["head_dim"])
    check_family(foreign_model("MixtralForCausalLM", fresh_seed, **drawn), fresh_seed)


@pytest.mark.parametrize("option, value", [
    ("num_experts_per_tok", 9), ("sliding_window", 0), ("hidden_act", "mish"), ("attention_bias", True),
])  # fmt: skip
def test_refused(option, value):
    check_refused("MixtralForCausalLM", option, **SMALL | {option: value})
