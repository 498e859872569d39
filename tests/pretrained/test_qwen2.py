r"""Qwen2: same logits as transformers, with biases on q, k and v and windows by layer."""

import random

import pytest

from tests.pretrained.parity import check_family, check_refused, foreign_model, llama_sizes, rope_parameters

SMALL = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=12)


WINDOWS = {
    "none": {},
    "not used": dict(use_sliding_window=False, sliding_window=2),
    "from layer 1 on": dict(use_sliding_window=True, sliding_window=3, max_window_layers=1, num_hidden_layers=3),
    "layer by layer": dict(use_sliding_window=True, sliding_window=4, num_hidden_layers=3,
                           layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
}


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("kind", ["default", "yarn"])
def test_parity(windows, kind, fresh_seed):
    draw = random.Random(fresh_seed)
    drawn = llama_sizes(draw) | WINDOWS[windows]
    drawn["rope_parameters"] = rope_parameters(kind, draw, drawn["head_dim"])
    check_family(foreign_model("Qwen2ForCausalLM", fresh_seed, **drawn), fresh_seed)


def test_sizes_that_follow_from_others(fresh_seed):
    check_family(foreign_model("Qwen2ForCausalLM", fresh_seed, **SMALL), fresh_seed)


@pytest.mark.parametrize("option, value", [
    ("layer_types", ["full_attention", "chunked_attention"]), ("attention_bias", True), ("hidden_act", "mish"),
])  # fmt: skip
def test_refused(option, value):
    check_refused("Qwen2ForCausalLM", option, **SMALL | {option: value})


def test_a_window_of_no_size_is_refused():
    types = ["full_attention", "sliding_attention"]
    check_refused("Qwen2ForCausalLM", "layer_types.*sliding_window", **SMALL, layer_types=types)
