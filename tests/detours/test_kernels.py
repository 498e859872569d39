r"""Kernels are inner products: of coordinates that are written out, as far as they can be."""

import itertools
import math

import pytest
import torch

from minillm.detours import kernels


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n_inputs", "degree"), list(itertools.product((1, 2, 4), (1, 2, 3, 5))))
def test_polynomial_kernel_is_the_inner_product_of_all_monomials(n_inputs: int, degree: int, fresh_seed: int):
    x, y = drawn(fresh_seed, 5, n_inputs), drawn(fresh_seed + 1, 7, n_inputs)
    a, b = kernels.polynomial_features(x, degree), kernels.polynomial_features(y, degree)
    assert a.shape[1] == kernels.polynomial_dimension(n_inputs, degree)
    counted = sum(1 for powers in itertools.product(range(degree + 1), repeat=n_inputs) if sum(powers) <= degree)
    assert a.shape[1] == counted
    torch.testing.assert_close(a @ b.T, kernels.polynomial_kernel(x, y, degree), rtol=1e-10, atol=1e-9)


def test_the_six_coordinates_of_degree_two(fresh_seed: int):
    x = drawn(fresh_seed, 4, 2)
    a, b = x.T
    root = math.sqrt(2)
    expected = torch.stack([torch.ones_like(a), root * a, root * b, a * a, root * a * b, b * b], dim=1)
    torch.testing.assert_close(kernels.polynomial_features(x, 2), expected)


def test_rbf_kernel_pair_by_pair(fresh_seed: int):
    x, y = drawn(fresh_seed, 4, 3), drawn(fresh_seed + 1, 6, 3)
    expected = [[math.exp(-0.7 * math.dist(a, b) ** 2) for b in y.tolist()] for a in x.tolist()]
    torch.testing.assert_close(kernels.rbf_kernel(x, y, 0.7), torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(kernels.rbf_kernel(x, x, 2.0).diagonal(), torch.ones(4, dtype=torch.float64))


def test_rbf_series_comes_as_near_as_one_likes(fresh_seed: int):
    x = 2 * torch.rand(30, generator=torch.Generator().manual_seed(fresh_seed), dtype=torch.float64) - 1
    exact = kernels.rbf_kernel(x[:, None], x[:, None], 1.5)
    errors = []
    for n_terms in (1, 5, 10, 20, 40):
        features = kernels.rbf_features(x, 1.5, n_terms)
        errors.append(float((features @ features.T - exact).abs().max()))
    assert errors[-1] < 1e-13 and all(after <= before + 1e-13 for before, after in itertools.pairwise(errors))
    torch.testing.assert_close(kernels.rbf_features(x, 1.5, 10), kernels.rbf_features(x, 1.5, 40)[:, :10])


def test_rank_of_a_gram_matrix():
    r"""Points that are made so that their span is known."""
    for rank in (1, 4, 9):
        basis = torch.linalg.qr(drawn(rank, 30, 30))[0][:, :rank]
        factors = basis * torch.linspace(1, 3, rank, dtype=torch.float64)
        assert kernels.gram_rank(factors @ factors.T) == rank
