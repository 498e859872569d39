r"""The product with a matrix in 8 bits is the product with the restored matrix."""

import pytest
import torch

from minillm.inference.quantization import int8_linear, rows


@pytest.mark.parametrize("dtype, bits", [(torch.float16, 10), (torch.bfloat16, 7), (torch.float32, 23),
                                         (torch.float64, 23)])
def test_as_the_product_with_the_restored_matrix(dtype, bits, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    n_rows, n_columns = (int(torch.randint(1, 90, (), generator=generator)) for _ in range(2))
    weight, bias = torch.randn(n_rows, n_columns, generator=generator), torch.randn(n_rows, generator=generator)
    x = torch.randn(2, 3, n_columns, generator=generator).to(dtype)
    q, scales = rows.quantize_rows(weight)
    exact = x.double() @ (q.double() * scales.double()).T
    # the largest that the rounding of inputs, sums and results can come to: each product by some roundings
    bound = (x.double().abs() @ (q.double() * scales.double()).abs().T) * (n_columns + 4) * 2.0**-bits
    bound = bound + torch.finfo(dtype).smallest_normal  # below it a type has fewer bits
    got = int8_linear.int8_linear(x, q, scales)
    assert got.dtype == dtype and got.shape == (2, 3, n_rows)
    assert bool(((got.double() - exact).abs() <= bound).all())
    got = int8_linear.int8_linear(x, q, scales, bias.to(dtype))
    exact = exact + bias.to(dtype).double()
    assert bool(((got.double() - exact).abs() <= bound + exact.abs() * 2.0**-bits).all())


def test_whole_numbers_are_exact():
    x = torch.tensor([[1.0, -2.0, 3.0]])
    q = torch.tensor([[1, 2, 3], [-127, 0, 127]], dtype=torch.int8)
    scales = torch.tensor([[0.5], [2.0]])
    assert int8_linear.int8_linear(x, q, scales).tolist() == [[3.0, 508.0]]
    assert int8_linear.int8_linear(x, q, scales, torch.tensor([1.0, -16.0])).tolist() == [[4.0, 492.0]]


def test_half_precision_does_not_overflow():
    r"""100 * 127 * 64 is beyond what float16 holds; the result is not."""
    x, weight = torch.full((1, 64), 100.0, dtype=torch.float16), torch.full((3, 64), 0.01)
    q, scales = rows.quantize_rows(weight)
    got = int8_linear.int8_linear(x, q, scales)
    torch.testing.assert_close(got, torch.full((1, 3), 64.0, dtype=torch.float16))
