r"""Every way to multiply against float64, within what rounding can do; the trial passes over what is broken."""

import pytest
import torch
from torch import nn

from minillm.inference.fast import matrices, products, ways
from minillm.inference.quantization.int4 import restore_int4, unpack_nibbles
from minillm.inference.quantization.linears import Int4Linear, Int8Linear
from minillm.inference.quantization.rows import restore_rows

BFLOAT16, FLOAT16, FLOAT32 = 2.0**-8, 2.0**-11, 2.0**-24  # the largest relative rounding
LAYERS = ("fp32", "fp16", "bf16", "int8", "int4")


def made(kind: str, n_out: int, n_in: int, bias: bool = False):
    r"""A random layer of that kind, and its matrix in float64."""
    weight, offset = torch.randn(n_out, n_in), torch.randn(n_out) if bias else None
    if kind == "int8":
        layer = Int8Linear.from_weight(weight, offset, torch.bfloat16)
        return layer, restore_rows(layer.q_weight, layer.scales, torch.float32).double()
    if kind == "int4":
        layer = Int4Linear.from_weight(weight, offset, torch.bfloat16)
        return layer, restore_int4(unpack_nibbles(layer.packed), layer.scales, layer.lows).double()
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[kind]
    layer = nn.Linear(n_in, n_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias:
            layer.bias.copy_(offset)
    layer = layer.to(dtype)
    return layer, layer.weight.detach().double()


def allowed(way, kind, x, matrix):
    r"""How far a product may lie off: each activation, weight and result rounded once, sums in float32."""
    sizes, sums = x.abs().double() @ matrix.abs().T, 4 * matrix.shape[1] * FLOAT32
    if way is ways.by_two_digits:
        step = x.abs().amax(dim=-1, keepdim=True).double() / (2 * ways.LEVELS**2)
        return step * matrix.abs().sum(dim=-1) + sums * sizes
    if kind == "int4":  # scale and value of code 8 are rounded each: the parts of a weight, not the weight
        return 6 * BFLOAT16 * x.abs().double() @ (matrix.abs() + 2 * matrix.abs().amax(dim=-1, keepdim=True)).T
    if way is ways.by_half_floats:
        return sums * sizes
    rounding = {"fp32": 0.0, "fp16": FLOAT16, "bf16": BFLOAT16, "int8": BFLOAT16}[kind]
    return (4 * rounding + sums) * sizes


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("n_rows", [1, 2, 8])
def test_every_way_that_works_here_multiplies(kind, n_rows, fresh_seed):
    torch.manual_seed(fresh_seed)
    layer, matrix = made(kind, 96, 64)
    x = torch.randn(n_rows, 64)
    x[0] *= 1000  # rows have scales of their own
    with torch.no_grad():
        working = products.working_ways(layer, n_rows)
        assert ways.own_forward in working
        for way, product in working.items():
            got = product(x)
            assert got.dtype == torch.float32 and got.shape == (n_rows, 96)
            error = (got.double() - x.double() @ matrix.T).abs()
            assert bool((error <= allowed(way, kind, x, matrix)).all()), way.__name__
            got.add_(1.0)  # what comes out is the caller's
            assert torch.equal(product(x), got.sub_(1.0)) or torch.allclose(product(x), got, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_quickest_product_adds_the_bias_and_joined_layers_stand_side_by_side(kind, fresh_seed):
    torch.manual_seed(fresh_seed)
    layers = [made(kind, n_out, 32, bias=n_out != 32)[0] for n_out in (32, 64, 32)]
    with torch.no_grad():
        for n_rows in (1, 4):
            x = torch.randn(n_rows, 32)
            for each in (layers[1], matrices.join(layers)):
                bare = products.quickest_product(matrices.first_rows(each, matrices.sizes(each)[0]), n_rows)
                assert torch.allclose(products.quickest_product(each, n_rows)(x), bare(x) + each.bias.float())
            apart = torch.cat([ways.own_forward(each, n_rows)(x) + (0 if each.bias is None else each.bias.float())
                               for each in layers], dim=-1)
            error = (products.quickest_product(matrices.join(layers), n_rows)(x) - apart).abs().max()
            assert float(error) <= 0.05 * float(apart.abs().max())


def test_zeros_give_zeros():
    for kind in LAYERS:
        layer, _ = made(kind, 32, 32)
        with torch.no_grad():
            for n_rows in (1, 3):
                for way, product in products.working_ways(layer, n_rows).items():
                    assert torch.equal(product(torch.zeros(n_rows, 32)), torch.zeros(n_rows, 32)), way.__name__


def test_float16_takes_bfloat16_weights_only_where_it_holds_them():
    layer, matrix = made("bf16", 32, 32)
    with torch.no_grad():
        layer.weight[0, 0] = 2.0**-20  # smaller than float16 holds to 8 bits, and nothing beside the others
        layer.weight[0, 1] = 3.0 * 2.0**-17
        assert ways.by_half_floats(layer, 1) is not None
        for too_large in (1e5, -1e30, float("inf"), float("nan")):
            layer.weight[3, 4] = too_large
            assert ways.by_half_floats(layer, 1) is None


def test_a_way_that_is_missing_or_wrong_is_passed_over(monkeypatch):
    def missing(layer, n_rows):
        return torch.ops.minillm_no_such_library.no_such_product

    def fails(layer, n_rows):
        def product(x):
            raise RuntimeError("not on this processor")
        return product

    def wrong(layer, n_rows):
        right = ways.own_forward(layer, n_rows)
        return lambda x: right(x) * 1.1

    def no_numbers(layer, n_rows):
        return lambda x: torch.full((len(x), 32), float("nan"))

    monkeypatch.setattr(ways, "WAYS", (ways.own_forward, missing, fails, wrong, no_numbers))
    monkeypatch.setattr(products, "_chosen", {})
    for kind in LAYERS:
        layer, _ = made(kind, 32, 32)
        with torch.no_grad():
            assert [*products.working_ways(layer, 1)] == [ways.own_forward]
            assert products.quickest_product(layer)(torch.ones(1, 32)).shape == (1, 32)


def test_equal_matrices_get_equal_ways(monkeypatch):
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setattr(products, "TRIAL_FROM", 0)
    first, second = made("fp32", 64, 32)[0], made("fp32", 64, 32)[0]
    with torch.no_grad():
        products.quickest_product(first)
        before = dict(products._chosen)
        products.quickest_product(second)
    assert products._chosen == before and len(before) == 1
