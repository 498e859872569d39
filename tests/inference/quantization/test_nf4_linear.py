r"""The frozen layer in NF4: as a layer with the restored weights, forwards and backwards, and nothing kept between."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from minillm.inference.quantization import int4, nf4
from minillm.inference.quantization.convert import is_quantized, quantize_model, stored_bytes
from minillm.inference.quantization.nf4_linear import Nf4Linear, restore_packed


def drawn(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    r"""A matrix, a bias and activations."""
    generator = torch.Generator().manual_seed(seed)
    n_rows, n_columns = (torch.randint(2, 9, (2,), generator=generator) * 16).tolist()
    return tuple(torch.randn(shape, generator=generator, dtype=dtype)
                 for shape in ((n_rows, n_columns), (n_rows,), (2, 3, n_columns)))


def test_restored_is_what_the_plain_functions_restore(fresh_seed):
    weight, _, _ = drawn(fresh_seed)
    codes, scales = nf4.nf4_quantize(weight, 32)
    stored = nf4.double_quantize(scales)
    plain = nf4.restore_nf4(codes, nf4.restore_scales(*stored))
    assert torch.equal(restore_packed(int4.pack_nibbles(codes), *stored), plain)
    part = Nf4Linear.from_weight(weight, group_size=32)
    assert torch.equal(part.weight, plain)
    assert (part.in_features, part.out_features) == (weight.shape[1], weight.shape[0])
    # no number is off by more than half the widest gap between codes (0.152 of its scale), and the scale's own rounding
    reach = scales.max()
    assert (plain - weight).abs().max() <= 0.153 * reach + (scales - nf4.restore_scales(*stored)).abs().max() + 1e-6


@pytest.mark.parametrize("biased", [True, False])
def test_as_a_frozen_linear_layer_both_ways(biased, fresh_seed):
    weight, bias, x = drawn(fresh_seed)
    part = Nf4Linear.from_weight(weight, bias if biased else None, 16)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    got = part(inputs[0])
    want = F.linear(inputs[1], part.weight, bias if biased else None)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(fresh_seed + 1))
    got.backward(upstream)
    want.backward(upstream)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-4, rtol=1e-4)
    assert not list(part.parameters()), "nothing to train"


def test_the_gradient_is_the_difference_quotient(fresh_seed):
    weight, bias, x = drawn(fresh_seed, torch.float64)
    part = Nf4Linear.from_weight(weight[:, :16], bias, 16)
    assert part.weight.dtype == torch.float64
    torch.autograd.gradcheck(part, x[:1, :2, :16].clone().requires_grad_())


def test_no_matrix_waits_for_the_backward_pass():
    r"""Floats that autograd keeps: the input of nothing, the matrix of a plain layer."""
    weight, _, x = drawn(3)

    def kept(layer: torch.nn.Module) -> int:
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda each: each):
            layer(x.clone().requires_grad_())
        return sum(each.numel() for each in seen if each.dtype == torch.float32)

    plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    part = Nf4Linear.from_weight(weight, group_size=16)
    assert kept(plain) == weight.numel()
    assert kept(part) == part.outer.numel() + 1


def test_few_bits_a_weight():
    part = Nf4Linear.from_weight(torch.randn(256, 512, generator=torch.Generator().manual_seed(0)))
    bits = 8 * stored_bytes(part) / (256 * 512)
    assert bits == nf4.nf4_bits(double=True) + 32 / (256 * 512)  # and one mean


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_input_decides_what_is_computed_in_and_the_format_stays(dtype, fresh_seed):
    weight, bias, x = drawn(fresh_seed)
    part = Nf4Linear.from_weight(weight, bias, 16)
    narrow = copy.deepcopy(part).to(dtype)
    assert {name: each.dtype for name, each in narrow.named_buffers()} == {
        "packed": torch.uint8, "q_scales": torch.int8, "outer": torch.float32, "mean": torch.float32, "bias": dtype}
    assert torch.equal(narrow.outer, part.outer) and narrow.weight.dtype == dtype
    want = F.linear(x.double(), part.weight.double(), bias.double())
    bound = (F.linear(x.double().abs(), part.weight.double().abs(), bias.double().abs()) + 1) * 2.0**-6
    for layer in (part, narrow):
        got = layer(x.to(dtype))
        assert got.dtype == dtype and bool(((got.double() - want).abs() <= bound).all())


def test_survives_copies_files_and_pickles(fresh_seed):
    weight, bias, x = drawn(fresh_seed)
    part = Nf4Linear.from_weight(weight, bias, 16)
    other = Nf4Linear.from_weight(weight.flip(0), bias * 0, 16)
    other.load_state_dict(part.state_dict())
    for twin in (copy.deepcopy(part), pickle.loads(pickle.dumps(part)), other):
        assert torch.equal(twin(x), part(x))


def test_counts_as_quantized():
    model = torch.nn.Sequential(Nf4Linear.from_weight(torch.ones(4, 16), group_size=16))
    assert is_quantized(model)
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(model)


def test_refusals():
    with pytest.raises(ValueError, match="group_size=64"):
        Nf4Linear.from_weight(torch.ones(3, 16))
    with pytest.raises(ValueError, match="15 columns"):
        Nf4Linear.from_weight(torch.ones(4, 15), group_size=4)
