r"""The mixed product: what outliers cannot do to the rest."""

import torch

from minillm.inference.quantization import outliers, rows, w8a8


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).clamp(-5, 5)


def bound_of(x: torch.Tensor, weight: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    r"""How far rounding both sides of the regular columns can move a sum: each factor by half of its step."""
    x, weight = (part.double().masked_fill(wide, 0) for part in (x, weight))
    x_half, half = (part.abs().amax(-1, keepdim=True) / 254 for part in (x, weight))
    n = int((~wide).sum())
    return x_half * weight.abs().sum(-1) + x.abs().sum(-1, keepdim=True) * half.T + n * x_half * half.T


def test_columns_are_found_by_any_token():
    x = torch.tensor([[1.0, -7.0, 6.0, 2.0], [1.0, 0.0, -6.0, 6.5]])
    assert outliers.outlier_columns(x).tolist() == [False, True, False, True]
    assert outliers.outlier_columns(x, 1.0).tolist() == [False, True, True, True]


def test_outliers_of_any_size_leave_the_others_their_precision(fresh_seed):
    weight = drawn(fresh_seed, 7, 30)
    for size in (10.0, 1000.0):
        x = drawn(fresh_seed + 1, 5, 30)
        x[2, 3], x[:, 11] = -size, size
        exact, wide = x.double() @ weight.double().T, outliers.outlier_columns(x)
        assert wide.nonzero().flatten().tolist() == [3, 11]
        bound = bound_of(x, weight, wide)
        off = (outliers.outlier_split(x, weight).double() - exact).abs()
        assert bool((off <= 1.001 * bound + 1e-6 * size).all())
        assert 0.02 < float((off / bound).max())


def test_without_outliers_it_is_the_product_in_int8_and_with_nothing_else_the_exact_one(fresh_seed):
    x, weight = drawn(fresh_seed, 5, 16), drawn(fresh_seed + 1, 3, 16)
    assert torch.equal(outliers.outlier_split(x, weight), w8a8.w8a8_linear(x, *rows.quantize_rows(weight)))
    torch.testing.assert_close(outliers.outlier_split(x, weight, 0.0), x @ weight.T, atol=1e-5, rtol=1e-5)


def test_dtype_and_arguments_stay(fresh_seed):
    x, weight = drawn(fresh_seed, 3, 8).half() * 3, drawn(fresh_seed, 2, 8).half()
    before = x.clone(), weight.clone()
    assert outliers.outlier_split(x, weight).dtype == torch.float16
    assert torch.equal(x, before[0]) and torch.equal(weight, before[1])
