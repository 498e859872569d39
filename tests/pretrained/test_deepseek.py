r"""DeepSeek-V2 and V3: same logits as transformers where all layers are dense; mixtures are refused."""

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

VERSIONS = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM")
SMALL = dict(
    hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=12,
    first_k_dense_replace=2, kv_lora_rank=6, q_lora_rank=5, qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=5)


def sizes(draw: random.Random) -> dict:
    n_heads, n_layers = draw.randint(1, 4), draw.randint(1, 3)
    return dict(
        hidden_size=n_heads * draw.randint(3, 7), num_attention_heads=n_heads, num_key_value_heads=n_heads,
        num_hidden_layers=n_layers, first_k_dense_replace=n_layers + draw.randint(0, 1),
        intermediate_size=draw.randint(5, 30), kv_lora_rank=2 * draw.randint(2, 5),
        q_lora_rank=draw.choice([None, 5, 8]),
        # even sizes: transformers' V2 reads neighbours as complex numbers, in place
        qk_rope_head_dim=2 * draw.randint(2, 5), qk_nope_head_dim=2 * draw.randint(1, 4), v_head_dim=draw.randint(2, 8),
        rms_norm_eps=draw.choice([1e-6, 1e-2]), hidden_act=draw.choice(["silu", "gelu"]),
        tie_word_embeddings=draw.random() < 0.5, max_position_embeddings=TRAINED_LEN)


@pytest.mark.parametrize("kind", ROPE_TYPES)
@pytest.mark.parametrize("name", VERSIONS)
def test_parity(name, kind, fresh_seed):
    draw = random.Random(fresh_seed)
    drawn = sizes(draw)
    drawn["rope_parameters"] = rope_parameters(kind, draw, drawn["qk_rope_head_dim"])
    drawn |= dict(mlp_bias=draw.random() < 0.5) if "V2" in name else dict(rope_interleave=draw.random() < 0.5)
    hf_model = foreign_model(name, fresh_seed, **drawn)
    check_family(hf_model, fresh_seed, cached=kind not in CHANGING)
    if kind in CHANGING:
        refuses_cache(hf_model)


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("interleave", [True, False])
def test_both_strengths_of_yarn(name, interleave, fresh_seed):
    given = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=12, mscale=0.7,
                 mscale_all_dim=1.3)  # one on turned features, the other on all scores
    more = dict(rope_interleave=interleave) if "V3" in name else {}
    check_family(foreign_model(name, fresh_seed, **SMALL, **more, rope_parameters=given), fresh_seed)


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("option, value", [
    ("first_k_dense_replace", 1), ("attention_bias", True), ("hidden_act", "mish"), ("an_option_of_tomorrow", 1),
])  # fmt: skip
def test_refused(name, option, value):
    mixture = dict(n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=8)
    check_refused(name, option, **SMALL | mixture | {option: value})
