r"""Configurations: validated, frozen, and the same after JSON."""

import dataclasses
import json

import pytest

from minillm.config import PRESETS, Learned, Mlp, ModelConfig, Rope, Sinusoidal, preset

GOOD = dict(vocab_size=10, max_seq_len=8, d_model=6, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=3, ffn=Mlp(4))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("change", "message"), [
    (dict(vocab_size=0), "vocab_size=0"),
    (dict(n_layers=1.5), r"n_layers=1\.5"),
    (dict(n_kv_heads=3), "divisor of n_heads=2"),
    (dict(ffn=None), "ffn=None"),
    (dict(ffn=Mlp(0)), r"ffn\.d_ff=0"),
    (dict(position=Rope()), "head_dim=3"),
    (dict(position=Sinusoidal(), d_model=5), "d_model=5"),
    (dict(position=Learned), "position="),
    (dict(residual="sandwich"), "residual='sandwich'"),
    (dict(dropout=1.0), r"dropout=1\.0"),
])
def test_bad_fields_are_named_with_a_fix(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**GOOD | change)


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
