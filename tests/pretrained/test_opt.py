r"""OPT: same logits as transformers; norms before or after, narrow embeddings, with and without biases."""

import random

import pytest
import torch

from minillm.pretrained import from_hf
from tests.pretrained.parity import check_family, check_refused, foreign_model, head_width

SMALL = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, ffn_dim=12)


@pytest.mark.parametrize("more", [
    {}, dict(do_layer_norm_before=False), dict(enable_bias=False), dict(layer_norm_elementwise_affine=False),
    dict(word_embed_proj_dim=5), dict(word_embed_proj_dim=7, do_layer_norm_before=False),
], ids=str)  # fmt: skip
def test_parity(more, fresh_seed):
    draw = random.Random(fresh_seed)
    n_heads = draw.randint(1, 4)
    drawn = dict(
        num_attention_heads=n_heads, hidden_size=n_heads * head_width(draw, n_heads),
        num_hidden_layers=draw.randint(1, 3),
        ffn_dim=draw.randint(5, 40), max_position_embeddings=draw.randint(24, 40), pad_token_id=draw.randint(0, 9),
        activation_function=draw.choice(["relu", "gelu"]), tie_word_embeddings=draw.random() < 0.5)
    check_family(foreign_model("OPTForCausalLM", fresh_seed, **drawn | more), fresh_seed)


def test_the_rows_before_position_0_are_dropped():
    hf_model = foreign_model("OPTForCausalLM", 0, **SMALL, max_position_embeddings=30)
    table = hf_model.model.decoder.embed_positions.weight
    assert torch.equal(from_hf(hf_model).pos_emb.weight, table[2:]) and len(table) == 32


@pytest.mark.parametrize("option, value", [
    ("_remove_final_layer_norm", True), ("activation_function", "mish"), ("num_key_value_heads", 1),
])  # fmt: skip
def test_refused(option, value):
    check_refused("OPTForCausalLM", option, **SMALL | {option: value})
