r"""The table of feed-forward networks compares like with like."""

from dataclasses import replace

import pytest
import torch

from minillm.bench.variants import ffn, harness
from minillm.config import Experts
from minillm.model.gpt import GPT


@pytest.mark.parametrize("name", ffn.FFNS)
def test_weights_are_those_of_the_built_model_and_nearly_equal(name):
    config = ffn.FFNS[name].config
    with torch.device("meta"):
        built = GPT(config).blocks[0].ffn
    n_weights, n_active = ffn.ffn_weights(config)
    assert n_weights == sum(parameter.numel() for parameter in built.parameters())
    router = config.ffn.n_experts * config.d_model if isinstance(config.ffn, Experts) else 0
    assert n_active - router == pytest.approx(2 * config.d_model * ffn.D_FF, rel=0.01)


def test_routing_numbers_of_a_fair_and_an_unfair_router():
    model = GPT(ffn.FFNS["MoE"].config, torch.Generator().manual_seed(0)).eval()
    fair = ffn.routing_numbers(model, n_windows=8)
    assert 1 / 8 <= fair["crowded"] < 0.3 and fair["idle"] == 0
    for block in model.blocks:
        block.ffn_norm.bias.data.fill_(1.0)  # whatever the token, its features add up to 64
        block.ffn.router.weight.data.zero_()
        block.ffn.router.weight.data[0], block.ffn.router.weight.data[1] = 2.0, 1.0
    unfair = ffn.routing_numbers(model, n_windows=8)
    assert unfair == {"crowded": 0.5, "idle": 6.0, "dropped": 0.75}


def test_measure_gives_a_number_a_measure(monkeypatch):
    monkeypatch.setattr(harness, "STEPS", 2)
    monkeypatch.setattr(harness, "train_variant", lambda config, seed, recipe: GPT(config).eval())
    dense, experts = (ffn.measure_ffn(ffn.FFNS[name], 0) for name in ("SwiGLU", "MoE"))
    assert set(dense) == {"loss", "weights", "active"}
    assert set(experts) == {"loss", "weights", "active", "crowded", "idle", "dropped"}
    assert 2 < dense["loss"] < 8


def test_a_wide_start_is_three_times_as_wide_and_else_the_same():
    for name in ("ReLU", "SwiGLU"):
        plain, wide = ffn.FFNS[name].config, ffn.FFNS[f"{name}, wide start"].config
        assert wide.init.linear_std == pytest.approx(3 * plain.init.linear_std)
        assert replace(wide, init=plain.init) == plain
