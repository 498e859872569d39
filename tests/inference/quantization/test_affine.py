r"""Zero points and steps: half a step of error at most, and zero comes back as zero."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.quantization import affine, int4

SHARERS = ("tensor", "row", 4, 12)


def drawn(seed: int, *shape: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + shift


@given(st.integers(2, 16), st.sampled_from(SHARERS), st.booleans(), st.floats(-4, 4), st.integers(0, 2**31))
def test_no_number_is_further_off_than_its_step_allows(n_bits, per, symmetric, shift, seed):
    x = drawn(seed, 5, 12, shift=shift)
    x[2, 7] = 0.0
    codes, scales, zeros = affine.quantize_affine(x, n_bits, per, symmetric)
    lowest, top = (-(2 ** (n_bits - 1) - 1), 2 ** (n_bits - 1) - 1) if symmetric else (0, 2**n_bits - 1)
    assert int(codes.min()) >= lowest and int(codes.max()) <= top
    restored = affine.restore_affine(codes, scales, zeros)
    shared = {"tensor": (1, 1), "row": (5, 1)}.get(per, (5, 12 // per if isinstance(per, int) else 0))
    assert scales.shape == zeros.shape == shared
    step = scales.repeat_interleave(12 // shared[1], 1).expand(5, 12)
    off = (x - restored).abs() / step
    slack = 2**n_bits * 2**-22  # float32 rounds x / scale, scale * code
    assert bool((off <= 1 + slack).all())  # the zero point is rounded too, which may cut the ends by half a step
    inside = (codes > lowest) & (codes < top)
    assert bool((off[inside] <= 0.5 + slack).all())
    assert float(restored[2, 7]) == 0.0


@pytest.mark.parametrize("n_bits", [3, 8])
def test_torchs_own_rounding_agrees(n_bits, fresh_seed):
    x, top = drawn(fresh_seed, 6, 40, shift=0.7), 2**n_bits - 1
    codes, scales, zeros = affine.quantize_affine(x, n_bits)
    expected = torch.fake_quantize_per_channel_affine(x, scales[:, 0], zeros[:, 0], 0, 0, top)
    far_from_borders = ((x / scales).frac().abs() - 0.5).abs() > 1e-3
    assert int(far_from_borders.sum()) > 100
    restored = affine.restore_affine(codes, scales, zeros)
    torch.testing.assert_close(restored[far_from_borders], expected[far_from_borders], atol=1e-5, rtol=1e-5)


def test_hand_made_numbers():
    codes, scales, zeros = affine.quantize_affine(torch.tensor([[-1.0, 0.0, 0.5, 2.0]]), 2)
    assert (codes.tolist(), scales.tolist(), zeros.tolist()) == ([[0, 1, 1, 3]], [[1.0]], [[1]])
    codes, scales, zeros = affine.quantize_affine(torch.tensor([[3.0, 6.0], [-7.0, 0.0]]), 4, symmetric=True)
    assert (codes.tolist(), zeros.tolist()) == ([[4, 7], [-7, 0]], [[0], [0]])
    torch.testing.assert_close(scales, torch.tensor([[6 / 7], [1.0]]))
    codes, scales, zeros = affine.quantize_affine(torch.zeros(2, 3))
    assert bool((affine.restore_affine(codes, scales, zeros) == 0).all()) and bool((scales == 1).all())


def test_error_is_that_of_evenly_spread_numbers():
    r"""Root mean square s / sqrt(12); over 200 000 numbers its standard deviation is 0.1 %."""
    x = drawn(0, 200, 1000)
    codes, scales, zeros = affine.quantize_affine(x, 8, symmetric=True)
    off = (x - affine.restore_affine(codes, scales, zeros)) / scales
    assert float(off.square().mean().sqrt()) * math.sqrt(12) == pytest.approx(1, abs=0.01)


def test_finer_sharing_never_has_a_coarser_step(fresh_seed):
    x = drawn(fresh_seed, 8, 24)
    steps = [affine.quantize_affine(x, 4, per, True)[1].max() for per in ("tensor", "row", 12, 4)]
    assert all(a >= b for a, b in zip(steps, steps[1:], strict=False))


def test_groups_of_four_bits_are_those_of_int4(fresh_seed):
    weight = drawn(fresh_seed, 7, 64)
    for mine, theirs in zip(affine.quantize_groups(weight), int4.int4_groups(weight), strict=True):
        assert torch.equal(mine, theirs)


@given(st.integers(2, 8), st.sampled_from([3, 6, 12]), st.integers(0, 2**31))
def test_groups_of_any_width(n_bits, group_size, seed):
    weight = drawn(seed, 4, 12, shift=5.0)
    codes, scales, lows = affine.quantize_groups(weight, n_bits, group_size)
    assert int(codes.max()) == 2**n_bits - 1 and int(codes.min()) == 0
    restored = int4.restore_int4(codes, scales, lows)
    step = scales.repeat_interleave(group_size, 1)
    assert bool(((weight - restored).abs() <= step * (0.5 + 2**-10) + 1e-5).all())


def test_what_a_number_weighs_and_errs():
    assert affine.bits_per_number(4, 32) == 5.0
    assert affine.bits_per_number(4, 64, 16) == 4.25
    assert affine.relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)


@pytest.mark.parametrize("call, words", [
    (lambda x: affine.quantize_affine(x, 1), "n_bits=1"),
    (lambda x: affine.quantize_affine(x, 17), "n_bits=17"),
    (lambda x: affine.quantize_affine(x, 8, "column"), "'column'"),
    (lambda x: affine.quantize_affine(x, 8, 5), "the 12 numbers"),
    (lambda x: affine.quantize_affine(x, 8, 0), "0 numbers"),
    (lambda x: affine.quantize_groups(x, 9), "n_bits=9"),
    (lambda x: affine.quantize_groups(x, 4, 5), "5 numbers"),
])  # fmt: skip
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.ones(2, 12))
