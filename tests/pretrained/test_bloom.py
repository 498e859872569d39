r"""BLOOM: same logits as transformers, with its own way to write ALiBi."""

import random

import pytest

from tests.pretrained.parity import check_family, check_refused, foreign_model, head_width

SMALL = dict(hidden_size=16, n_head=2, n_layer=2)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 4, 6, 7])  # slopes are made in two ways
def test_parity(n_heads, fresh_seed):
    draw = random.Random(fresh_seed)
    hf_model = foreign_model(
        "BloomForCausalLM", fresh_seed, n_head=n_heads, hidden_size=n_heads * head_width(draw, n_heads),
        n_layer=draw.randint(1, 3), layer_norm_epsilon=draw.choice([1e-5, 1e-3]),
        tie_word_embeddings=draw.random() < 0.5, pretraining_tp=draw.choice([1, 2]))
    check_family(hf_model, fresh_seed)


@pytest.mark.parametrize("option, more", [
    ("apply_residual_connection_post_layernorm", dict(apply_residual_connection_post_layernorm=True)),
    ("slow_but_exact", dict(slow_but_exact=True, pretraining_tp=2)),
    ("head_dim", dict(head_dim=4)),
])  # fmt: skip
def test_refused(option, more):
    check_refused("BloomForCausalLM", option, **SMALL, **more)
