r"""DoRA, against its equation row by row; the base at first; merged, switched and saved like LoRA."""

import pytest
import torch

from minillm import tuning
from minillm.tuning.card import small_tensors
from minillm.tuning.lora_linear import lora_layers
from tests.tuning.test_lora_model import base_model, filled, some_ids


def drawn(model, seed):
    r"""Factors and lengths that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in filled(model, seed).named_parameters():
            if name.endswith("magnitude"):
                parameter.mul_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("family", ["llama", "gpt2", "latent"])
def test_at_first_it_is_the_base_and_then_its_equation(fresh_seed, family):
    base, ids = base_model(fresh_seed, family), some_ids(fresh_seed)
    tuned = tuning.dora(base, rank=3, alpha=5.0)
    torch.testing.assert_close(tuned(ids), base(ids), rtol=1e-12, atol=1e-12)
    drawn(tuned, fresh_seed)
    plain = base_model(fresh_seed, family)
    for path, layer in lora_layers(tuned).items():
        adapter, matrix = layer.adapters["default"], plain.get_submodule(path).weight
        for row in range(len(matrix)):
            turned = matrix[row] + 5 / 3 * adapter.lora_b[row] @ adapter.lora_a
            matrix.data[row] = (adapter.magnitude[row] * turned / turned.norm()).detach()
    torch.testing.assert_close(tuned(ids), plain(ids), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tuning.merged(tuned)(ids), plain(ids), rtol=1e-9, atol=1e-9)
    cache = tuned.new_cache(2, 9)
    torch.testing.assert_close(tuned(ids, cache=cache), plain(ids), rtol=1e-9, atol=1e-9)


def test_a_row_of_zeros_stays_one(fresh_seed):
    base = base_model(fresh_seed)
    assert not base.blocks[0].attn.o_proj.weight.any(), "this preset begins so"
    tuned = tuning.dora(base, targets=["o_proj"])
    out = tuned(some_ids(fresh_seed))
    out.square().sum().backward()
    assert torch.equal(out, base(some_ids(fresh_seed)))
    assert all(torch.isfinite(each.grad).all() for each in tuned.parameters() if each.requires_grad)


def test_the_length_is_a_constant_to_the_gradient_of_the_factors(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    tuned = drawn(tuning.dora(base_model(fresh_seed), 2, targets=["q_proj"]), fresh_seed)
    layer = tuned.blocks[0].attn.q_proj
    adapter, weight = layer.adapters["default"], layer.base.weight
    x, out_grad = (torch.randn(5, size, generator=generator, dtype=torch.float64) for size in reversed(weight.shape))
    layer(x).backward(out_grad)
    turned = weight + adapter.scaling * adapter.lora_b @ adapter.lora_a
    lengths = turned.norm(dim=1)
    whole = out_grad.T @ x  # the gradient for the whole matrix
    torch.testing.assert_close(adapter.magnitude.grad, (whole * turned).sum(dim=1) / lengths)
    scaled = (adapter.magnitude / lengths)[:, None] * whole * adapter.scaling
    torch.testing.assert_close(adapter.lora_b.grad, scaled @ adapter.lora_a.T)
    torch.testing.assert_close(adapter.lora_a.grad, adapter.lora_b.T @ scaled)


def test_it_goes_with_lora_and_into_a_file(fresh_seed, tmp_path):
    base, ids = base_model(fresh_seed).float(), some_ids(fresh_seed)
    first = drawn(tuning.dora(base, 2, targets=["q_proj", "up_proj"], name="turned"), fresh_seed)
    both = filled(tuning.lora(first, 2, targets=["q_proj"], name="added"), fresh_seed)
    with tuning.active(both):
        assert torch.equal(both(ids), base(ids))
    with tuning.active(both, "turned"):
        alone = both(ids)
    torch.testing.assert_close(tuning.merged(both, ["turned"])(ids), alone, rtol=1e-4, atol=1e-4)
    layer = both.blocks[1].attn.q_proj
    changes = [layer.merged_weight([name]) - layer.base.weight for name in ("turned", "added")]
    torch.testing.assert_close(layer.weight, layer.base.weight + sum(changes))
    tuning.save(both, tmp_path / "both.safetensors")
    again = tuning.load(base, tmp_path / "both.safetensors")
    assert torch.equal(again(ids), both(ids))
    assert sum(name.endswith("magnitude") for name in small_tensors(again)) == 2 * len(base.blocks)
