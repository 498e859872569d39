r"""Phi: same logits as transformers; one norm for both parts, partial rotary of every type, a bias on the logits."""

import random

import pytest

from tests.pretrained.parity import (
    CHANGING,
    TRAINED_LEN,
    check_family,
    check_refused,
    foreign_model,
    refuses_cache,
    rope_parameters,
)

SMALL = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=12)


def sizes(draw: random.Random) -> dict:
    n_kv_heads = draw.randint(1, 3)
    n_heads = n_kv_heads * draw.randint(1, 3)
    return dict(
        num_attention_heads=n_heads, num_key_value_heads=n_kv_heads, hidden_size=n_heads * 8 * draw.randint(1, 2),
        num_hidden_layers=draw.randint(1, 3), intermediate_size=draw.randint(5, 30),
        hidden_act=draw.choice(["gelu_new", "relu"]), layer_norm_eps=draw.choice([1e-5, 1e-3]),
        tie_word_embeddings=draw.random() < 0.5, max_position_embeddings=TRAINED_LEN)


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "yarn", "longrope", "llama3"])
@pytest.mark.parametrize("qk_layernorm", [True, False])
def test_parity(kind, qk_layernorm, fresh_seed):
    draw = random.Random(fresh_seed)
    drawn = sizes(draw)
    head_dim = drawn["hidden_size"] // drawn["num_attention_heads"]
    given = rope_parameters(kind, draw, head_dim, draw.choice([0.5, 0.75, 1.0]))
    hf_model = foreign_model("PhiForCausalLM", fresh_seed, qk_layernorm=qk_layernorm, rope_parameters=given, **drawn)
    check_family(hf_model, fresh_seed, cached=kind not in CHANGING)
    if kind in CHANGING:
        refuses_cache(hf_model)


def test_the_usual_share_and_a_head_dim_of_its_own(fresh_seed):
    check_family(foreign_model("PhiForCausalLM", fresh_seed, **SMALL, head_dim=12), fresh_seed)


@pytest.mark.parametrize("option, value", [("hidden_act", "mish"), ("attention_bias", False)])
def test_refused(option, value):
    check_refused("PhiForCausalLM", option, **SMALL | {option: value})
