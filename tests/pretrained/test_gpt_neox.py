r"""GPT-NeoX: same logits as transformers; partial rotary of every type, both ways to join attention and FFN."""

import random

import pytest

from tests.pretrained.parity import (
    CHANGING,
    ROPE_TYPES,
    TRAINED_LEN,
    check_family,
    check_refused,
    foreign_model,
    refuses_cache,
    rope_parameters,
)

SMALL = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=12)


def sizes(draw: random.Random) -> dict:
    n_heads = draw.randint(1, 4)
    return dict(
        num_attention_heads=n_heads, hidden_size=n_heads * 8 * draw.randint(1, 2), num_hidden_layers=draw.randint(1, 3),
        intermediate_size=draw.randint(5, 30), hidden_act=draw.choice(["gelu", "gelu_new", "relu"]),
        layer_norm_eps=draw.choice([1e-5, 1e-3]), tie_word_embeddings=draw.random() < 0.5,
        attention_bias=draw.random() < 0.7, max_position_embeddings=TRAINED_LEN)


@pytest.mark.parametrize("kind", ROPE_TYPES)
@pytest.mark.parametrize("parallel", [True, False])
def test_parity(kind, parallel, fresh_seed):
    draw = random.Random(fresh_seed)
    drawn = sizes(draw)
    head_dim = drawn["hidden_size"] // drawn["num_attention_heads"]
    given = rope_parameters(kind, draw, head_dim, draw.choice([0.5, 0.75, 1.0]))
    hf_model = foreign_model(
        "GPTNeoXForCausalLM", fresh_seed, use_parallel_residual=parallel, rope_parameters=given, **drawn)
    check_family(hf_model, fresh_seed, cached=kind not in CHANGING)
    if kind in CHANGING:
        refuses_cache(hf_model)


def test_the_share_of_old_configurations(fresh_seed):
    check_family(foreign_model("GPTNeoXForCausalLM", fresh_seed, **SMALL, rotary_pct=0.25, is_decoder=True), fresh_seed)


@pytest.mark.parametrize("option, value", [("hidden_act", "mish"), ("head_dim", 4), ("num_key_value_heads", 1)])
def test_refused(option, value):
    check_refused("GPTNeoXForCausalLM", option, **SMALL | {option: value})


@pytest.mark.parametrize("share", [0.0, 0.125, 0.4])
def test_a_share_that_is_no_pairs_is_refused(share):
    check_refused("GPTNeoXForCausalLM", "rope_parameters.*pairs", **SMALL, rotary_pct=share)
