r"""The table of attention variants: layers that are what they are called, costs that are those of the layers."""

import pytest
import torch

from minillm.bench.variants import attention, harness
from minillm.layers import attention_cost


@pytest.mark.parametrize("name", attention.VARIANTS)
def test_costs_are_those_of_the_built_layers(name):
    variant = attention.VARIANTS[name]
    model = attention.build_variant(variant, 0)
    weights = attention_cost.attention_weights_count(variant.kind, attention.SIZES)
    for block in model.blocks:
        assert sum(parameter.numel() for parameter in block.attn.parameters()) == weights
    assert attention.costs_of(variant.kind)["weights"] == weights
    if variant.layer is None:
        held = [x for x in vars(model.new_cache(1, 64)[0]).values() if isinstance(x, torch.Tensor)]
        kept = sum(x.numel() for x in held if x.is_floating_point())
        counted = attention.costs_of(variant.kind)["kept at 64"]
        assert counted == (kept * attention.SIZES.window // 64 if variant.kind == "window" else kept)


def test_what_is_not_replaced_starts_alike_and_matrices_start_as_everywhere():
    plain, other = (attention.build_variant(attention.VARIANTS[name], 3) for name in (
        "MHA, learned positions", "linear, learned positions"))
    assert torch.equal(plain.blocks[1].ffn.up_proj.weight, other.blocks[1].ffn.up_proj.weight)
    block = other.blocks[0].attn
    std = harness.BASE.init.linear_std
    assert block.q_proj.weight.std().item() == pytest.approx(std, rel=0.1) and not block.o_proj.weight.any()
    assert not torch.equal(block.q_proj.weight, attention.build_variant(
        attention.VARIANTS["linear, learned positions"], 4).blocks[0].attn.q_proj.weight)


@pytest.mark.parametrize("name", attention.VARIANTS)
def test_no_variant_sees_the_future(name):
    model = attention.build_variant(attention.VARIANTS[name], 0).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.o_proj.weight, std=0.1)
        torch.nn.init.normal_(block.ffn.down_proj.weight, std=0.1)
    token_ids = harness.text_windows("validation", 40, 2)[:, :40]
    changed = token_ids.clone()
    changed[:, 30] = (changed[:, 30] + 1) % harness.BASE.vocab_size
    with torch.no_grad():
        moved = (model(changed) - model(token_ids)).abs().amax(dim=(0, 2))
    assert moved[:30].max() < 1e-5 and moved[31] > 1e-4


def test_a_converted_model_has_fewer_key_heads_and_still_speaks(monkeypatch):
    monkeypatch.setattr(harness, "STEPS", 4)
    monkeypatch.setattr(harness, "mean_loss", lambda model: float(model.config.n_kv_heads))
    monkeypatch.setattr(attention, "train_built", lambda model, seed, steps=None: model)
    numbers = attention.measure_attention(attention.VARIANTS["MHA"], 0)
    keys = ("loss", "pooled to 2", "healed to 2", "pooled to 1", "healed to 1")
    assert [numbers[key] for key in keys] == [4, 2, 2, 1, 1]
    assert "pooled to 2" not in attention.measure_attention(attention.VARIANTS["MQA"], 0)
