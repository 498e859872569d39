r"""8 bits a number, one scale a row: nothing further off than half a step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.quantization import rows


@given(st.integers(1, 40), st.floats(-30, 30), st.integers(0, 2**31))
def test_each_number_is_within_half_a_step(n_columns, exponent, seed):
    weight = torch.randn(3, 2, n_columns, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight[0, 0] = 0.0
    before = weight.clone()
    q, scales = rows.quantize_rows(weight)
    restored = rows.restore_rows(q, scales)
    assert torch.equal(weight, before)
    assert q.dtype == torch.int8 and int(q.min()) >= -127 and int(q.max()) <= 127
    torch.testing.assert_close(scales[..., 0] * 127, weight.abs().amax(dim=-1))
    # float32 rounds weight / scale and the product once more, each by 2^-24 of numbers up to 127 steps
    assert bool(((weight - restored).abs() <= scales * (0.5 + 127 * 2**-22)).all())
    assert bool((restored[0, 0] == 0).all()) and float(scales[0, 0]) == 0
    largest = weight.abs().argmax(dim=-1, keepdim=True)
    torch.testing.assert_close(restored.gather(-1, largest), weight.gather(-1, largest))


def test_by_hand():
    q, scales = rows.quantize_rows(torch.tensor([[1.27, -0.5, 0.004, 0.0], [-254.0, 127.0, 3.0, 0.9]]))
    assert q.tolist() == [[127, -50, 0, 0], [-127, 64, 2, 0]]  # 63.5 goes to the even neighbour, and 1.5 too
    torch.testing.assert_close(scales, torch.tensor([[0.01], [2.0]]))


def test_what_lies_on_the_grid_comes_back_to_the_last_bit(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    whole = torch.randint(-127, 128, (64, 33), generator=generator)
    whole[:, 7] = 127  # a row's largest number says what its step is
    weight = whole * 2.0 ** torch.randint(-20, 20, (64, 1), generator=generator)
    q, scales = rows.quantize_rows(weight)
    assert torch.equal(q, whole.to(torch.int8)) and torch.equal(rows.restore_rows(q, scales), weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    weight = torch.randn(5, 6).to(dtype)
    q, scales = rows.quantize_rows(weight)
    assert (q.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (5, 1))
    assert rows.restore_rows(q, scales, dtype).dtype == dtype and rows.restore_rows(q, scales).dtype == torch.float32
