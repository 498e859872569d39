r"""Configurations: validated, frozen, and the same after JSON."""

import dataclasses
import json

import pytest

from minillm.config import (
    PRESETS,
    AttentionOptions,
    DynamicNtk,
    Ends,
    Experts,
    Learned,
    Llama3Scaling,
    LongRope,
    Mla,
    Mlp,
    ModelConfig,
    Proportional,
    Rope,
    Shaw,
    Sinusoidal,
    T5Bias,
    Yarn,
    preset,
)

GOOD = dict(vocab_size=10, max_seq_len=8, d_model=6, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=3, ffn=Mlp(4))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("change", [
    dict(ffn=Experts(4, 2, 8, capacity_factor=1.25), ends=Ends(2.0, True, True, 0.5), residual="sandwich"),
    dict(position=Rope(500.0, 0.5, Yarn(4.0, 8)), head_dim=4, attention=AttentionOptions(window=(3,), qk_norm=True)),
    dict(position=Rope(scaling=LongRope((1.0, 2.0), (3.0, 4.0), 8)), attention=Mla(8, 4, q_rank=3)),
    dict(position=Rope(scaling=Proportional(0.5, 2.0)), head_dim=4),
    dict(position=Rope(scaling=Llama3Scaling(8.0, 1.0, 4.0, 16)), head_dim=4),
    dict(position=T5Bias(8, 16), residual="deepnorm"),
    dict(position=Shaw(3), residual="parallel"),
], ids=str)
def test_every_kind_survives_json(change):
    config = ModelConfig(**GOOD | change)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_written_before_attention_had_kinds_is_read():
    data = ModelConfig(**GOOD).to_dict()
    del data["ends"], data["attention"]["kind"]
    assert ModelConfig.from_dict(data) == ModelConfig(**GOOD)


def test_angles_that_depend_on_the_length_say_so():
    assert Rope(scaling=DynamicNtk(2.0, 8)).depends_on_length()
    assert not Rope(scaling=Yarn(2.0, 8)).depends_on_length()


@pytest.mark.parametrize(("change", "message"), [
    (dict(attention=Mla(8, 4)), "position=Learned"),
    (dict(position=Shaw(), attention=AttentionOptions(scale=1.0)), "scale=1.0"),
    (dict(attention=AttentionOptions(window=(3, None))), "n_layers=1"),
    (dict(position=Rope(share=0.5), head_dim=6), "head_dim=6"),
    (dict(vocab_size=0), "vocab_size=0"),
    (dict(n_layers=1.5), r"n_layers=1\.5"),
    (dict(n_kv_heads=3), "divisor of n_heads=2"),
    (dict(ffn=None), "ffn=None"),
    (dict(ffn=Mlp(0)), r"ffn\.d_ff=0"),
    (dict(position=Rope()), "head_dim=3"),
    (dict(position=Sinusoidal(), d_model=5), "d_model=5"),
    (dict(position=Learned), "position="),
    (dict(residual="burger"), "residual='burger'"),
    (dict(dropout=1.0), r"dropout=1\.0"),
])
def test_bad_fields_are_named_with_a_fix(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**GOOD | change)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Experts(4, 5, 8), "top_k=5"),
    (lambda: Mla(8, 3), "rope_dim=3"),
    (lambda: AttentionOptions(window=0), "window=0"),
    (lambda: Rope(share=0.0), "share=0"),
])
def test_bad_parts_are_named_with_a_fix(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_small_and_frozen():
    config = ModelConfig(**GOOD)
    assert len(dataclasses.fields(config)) <= 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 7


def test_unknown_names_and_data_are_refused():
    with pytest.raises(ValueError, match="gpt2"):
        preset("gpt5")
    data = ModelConfig(**GOOD).to_dict()
    for broken in ({}, {"ffn": 3}, data | {"extra": 1}, data | {"ffn": {"kind": "nope"}}, data | {"norm": {"x": 1}}):
        with pytest.raises(ValueError, match="use one of|not a model config"):
            ModelConfig.from_dict(broken)
