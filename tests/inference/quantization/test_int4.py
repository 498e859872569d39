r"""4 bits a number in groups: half a step, what lies on the grid, and two codes in a byte."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.quantization import int4


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 33), st.floats(-20, 20), st.integers(0, 2**31))
def test_each_number_is_within_half_a_step_of_its_group(n_rows, n_groups, size, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(n_rows, n_groups * size, generator=generator) + 0.3) * 2.0**exponent
    codes, scales, lows = int4.int4_groups(weight, size)
    assert codes.dtype == torch.uint8 and int(codes.max()) <= 15
    assert scales.shape == lows.shape == (n_rows, n_groups)
    restored = int4.restore_int4(codes, scales, lows)
    for i in range(n_rows):
        for g in range(n_groups):
            group, back = (part[i, g * size : (g + 1) * size] for part in (weight, restored))
            step = (group.max() - group.min()) / 15
            # a few roundings of float32, each by 2^-24 of what is added or divided
            assert float((group - back).abs().max()) <= float(step * 0.5 + (step * 15 + group.abs().max()) * 2**-22)
            assert float(lows[i, g]) == float(group.min())


def test_by_hand():
    weight = torch.tensor([[-1.0, 14.0, 2.4, 2.6, 5.0, 5.0, 5.0, 5.0]])
    codes, scales, lows = int4.int4_groups(weight, 4)
    assert codes.tolist() == [[0, 15, 3, 4, 0, 0, 0, 0]]
    assert scales.tolist() == [[1.0, 0.0]] and lows.tolist() == [[-1.0, 5.0]]
    assert int4.restore_int4(codes, scales, lows).tolist() == [[-1.0, 14.0, 2.0, 3.0, 5.0, 5.0, 5.0, 5.0]]


def test_what_lies_on_the_grid_of_a_group_comes_back_to_the_last_bit(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    whole = torch.randint(16, (8, 12, 32), generator=generator)
    whole[..., 0], whole[..., -1] = 0, 15
    steps = 2.0 ** torch.randint(-9, 9, (8, 12, 1), generator=generator)
    weight = ((whole - torch.randint(16, (8, 12, 1), generator=generator)) * steps).flatten(1)
    codes, scales, lows = int4.int4_groups(weight)
    assert torch.equal(codes, whole.to(torch.uint8).flatten(1))
    assert torch.equal(int4.restore_int4(codes, scales, lows), weight)


@pytest.mark.parametrize("group_size", [0, -32, 5, 64])
def test_groups_that_do_not_fit_are_refused(group_size):
    with pytest.raises(ValueError, match=f"group_size={group_size} .*32.*8 bits"):
        int4.int4_groups(torch.zeros(2, 32), group_size)


def test_two_codes_in_a_byte(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    codes = torch.randint(16, (7, 10), generator=generator).to(torch.uint8)
    packed = int4.pack_nibbles(codes)
    assert packed.dtype == torch.uint8 and packed.shape == (7, 5)
    assert torch.equal(int4.unpack_nibbles(packed), codes)
    assert int4.pack_nibbles(torch.tensor([[0x1, 0xF]], dtype=torch.uint8)).tolist() == [[0xF1]]
    with pytest.raises(ValueError, match="7 columns"):
        int4.pack_nibbles(torch.zeros(2, 7, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    codes, scales, lows = int4.int4_groups(torch.randn(2, 8).to(dtype), 4)
    assert scales.dtype == lows.dtype == torch.float32
    assert int4.restore_int4(codes, scales, lows, dtype).dtype == dtype
