r"""Layers in 8 and 4 bits: as a linear layer with the restored weights, in every type, by both paths."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from minillm.inference.quantization import packed
from minillm.inference.quantization.linears import Int4Linear, Int8Embedding, Int8Linear
from minillm.layers.paths import plain_path

LAYERS = (Int8Linear, Int4Linear)
BITS = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 22}


def drawn(seed, n_rows=48, n_columns=96):
    r"""A matrix, a bias and activations."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n_rows, n_columns, generator=generator), torch.randn(n_rows, generator=generator),
            torch.randn(2, 3, n_columns, generator=generator))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", list(BITS))
@pytest.mark.parametrize("biased", [True, False])
def test_as_a_linear_layer_with_the_restored_weights(layer, dtype, biased, fresh_seed):
    weight, bias, x = drawn(fresh_seed)
    part, x = layer.from_weight(weight, bias if biased else None, dtype), x.to(dtype)
    exact = copy.deepcopy(part)
    exact.dtype = torch.float32
    want = F.linear(x.double(), exact.weight.double(), bias.to(dtype).double() if biased else None)
    # weights, scales and sums rounded to the activations' type; each sum has 96 terms and some roundings
    bound = (F.linear(x.double().abs(), exact.weight.double().abs(), bias.double().abs()) + 1) * 6 * 2.0 ** -BITS[dtype]
    with torch.no_grad():
        fast = part(x)
        with plain_path():
            plain = part(x)
    for got in (fast, plain):
        assert got.shape == (2, 3, 48) and got.dtype == dtype
        assert bool(((got.double() - want).abs() <= bound).all())
    assert part.weight.dtype == dtype and not list(part.parameters())


@pytest.mark.parametrize("layer", LAYERS)
def test_on_the_plain_path_no_kernel_is_asked(layer, monkeypatch):
    weight, bias, x = drawn(0)
    part, x = layer.from_weight(weight, bias, torch.bfloat16), x.bfloat16()
    works = packed.int8_kernel_works() if layer is Int8Linear else packed.int4_kernel_works()
    asked = []
    for name in ("int8_product", "int4_product"):
        product = getattr(packed, name)
        monkeypatch.setattr(packed, name, lambda *given, product=product: asked.append(1) or product(*given))
    with torch.no_grad(), plain_path():
        part(x)
    assert not asked
    with torch.no_grad():
        part(x)
    assert len(asked) == int(works)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_pass_through_to_the_activations(layer, fresh_seed):
    weight, bias, x = drawn(fresh_seed)
    for dtype in (torch.float32, torch.bfloat16):
        part, given = layer.from_weight(weight, bias, dtype), x.to(dtype, copy=True).requires_grad_()
        part(given).sum().backward()
        want = part.weight.double().sum(dim=0).expand_as(x)
        sizes = part.weight.double().abs().sum(dim=0)
        assert bool(((given.grad.double() - want).abs() <= sizes * 6 * 2.0 ** -BITS[dtype]).all())


def test_scales_are_float16_where_that_holds_them():
    for factor, dtype in ((1.0, torch.float16), (1e-5, torch.float32), (1e5, torch.float32)):
        weight = drawn(0)[0] * factor
        part = Int4Linear.from_weight(weight)
        assert part.scales.dtype == part.lows.dtype == dtype
        furthest = (part.weight - weight).abs().max() / part.scales.float().max()
        assert float(furthest) < 0.53, "half a step, and what rounding the scale adds to 15 steps"
    flat = Int4Linear.from_weight(torch.full((2, 32), 3.0))
    assert flat.scales.dtype == torch.float16 and bool((flat.weight == 3.0).all())


@pytest.mark.parametrize("group_size", [2, 32, 48])
def test_group_sizes(group_size, fresh_seed):
    weight, _, x = drawn(fresh_seed)
    part = Int4Linear.from_weight(weight, group_size=group_size)
    assert part.group_size == group_size and part.scales.shape == (48, 96 // group_size)
    torch.testing.assert_close(part(x), x @ part.weight.T)


def test_an_embedding_and_its_tied_head(fresh_seed):
    weight = drawn(fresh_seed)[0]
    head = Int8Linear.from_weight(weight, None, torch.bfloat16)
    table, ids = Int8Embedding(head), torch.randint(48, (2, 5))
    assert torch.equal(table(ids), head.weight[ids]) and table(ids).dtype == torch.bfloat16
    alone = Int8Embedding.from_weight(weight)
    assert torch.equal(alone(ids), alone.weight[ids]) and alone.weight.dtype == torch.float32
    assert float((alone.weight - weight).abs().max()) <= float(weight.abs().max()) / 127 * 0.501
    assert table.to("meta").table is head and head.q_weight.device.type == "meta", "moved, and still tied"


@pytest.mark.parametrize("layer", LAYERS)
def test_its_types_are_its_format(layer):
    part = layer.from_weight(drawn(0)[0], dtype=torch.bfloat16)
    before = copy.deepcopy(part.state_dict())
    for change in (lambda: part.to(torch.float64), part.bfloat16, part.double,
                   lambda: torch.nn.Sequential(part).to("cpu", torch.bfloat16)):
        with pytest.raises(ValueError, match="part of the format.*quantize_model"):
            change()
    part.to("cpu")
    assert all(torch.equal(value, before[name]) and value.dtype == before[name].dtype
               for name, value in part.state_dict().items())


@pytest.mark.parametrize("layer", LAYERS)
def test_other_weights_are_noticed_by_what_was_packed(layer, fresh_seed):
    (weight, bias, x), other = drawn(fresh_seed), drawn(fresh_seed + 1)[0]
    part, x = layer.from_weight(weight, bias, torch.bfloat16), x.bfloat16()
    wanted = layer.from_weight(other, bias, torch.bfloat16)
    with torch.no_grad():
        first = part(x)
        part.load_state_dict(wanted.state_dict())
        assert torch.equal(part(x), wanted(x)) and not torch.equal(part(x), first)
        for again in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
            assert torch.equal(again(x), wanted(x))
