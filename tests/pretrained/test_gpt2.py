r"""GPT-2: same logits as transformers for every option that changes the arithmetic."""

import random

import pytest

from tests.pretrained.parity import VOCABULARY, check_family, check_refused, foreign_model, head_width


def options(draw: random.Random) -> dict:
    n_heads = draw.randint(1, 4)
    return dict(
        n_head=n_heads, n_embd=n_heads * head_width(draw, n_heads), n_layer=draw.randint(1, 3),
        n_positions=draw.randint(24, 40), n_inner=draw.choice([None, 17]), layer_norm_epsilon=draw.choice([1e-5, 1e-3]),
        activation_function=draw.choice(["gelu_new", "gelu", "relu", "silu", "gelu_fast", "tanh", "quick_gelu"]))


@pytest.mark.parametrize("more", [
    {}, dict(tie_word_embeddings=False), dict(scale_attn_weights=False), dict(scale_attn_by_inverse_layer_idx=True),
    dict(reorder_and_upcast_attn=True),
], ids=str)  # fmt: skip
def test_parity(more, fresh_seed):
    drawn = options(random.Random(fresh_seed))
    check_family(foreign_model("GPT2LMHeadModel", fresh_seed, **drawn | more), fresh_seed)


@pytest.mark.parametrize("option, value", [
    ("add_cross_attention", True), ("activation_function", "mish"), ("chunk_size_feed_forward", 4),
    ("is_encoder_decoder", True), ("an_option_of_tomorrow", 0.5),
])  # fmt: skip
def test_refused(option, value):
    check_refused("GPT2LMHeadModel", option, **dict(n_head=2, n_embd=8, n_layer=1) | {option: value})


def test_the_vocabulary_is_the_configuration_s():
    hf_model = foreign_model("GPT2LMHeadModel", 0, n_head=2, n_embd=8, n_layer=1)
    hf_model.resize_token_embeddings(VOCABULARY + 5, mean_resizing=False)
    check_family(hf_model, 0)
