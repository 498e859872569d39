r"""Kernels: inner products in a space that nobody has to enter, and that space written out where it can be."""

import math
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor


def linear_kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    r"""The inner products themselves.

    Args:
        x: points, (N, D).
        y: points, (M, D).
    Returns: k(x_i, y_j), (N, M).
    """
    return x @ y.T


def polynomial_kernel(
    x: Float[Tensor, "N D"], y: Float[Tensor, "M D"], degree: int, offset: float = 1.0
) -> Float[Tensor, "N M"]:
    r"""Inner products of all monomials up to a degree: (offset + x . y) ** degree.

    Args:
        x: points, (N, D).
        y: points, (M, D).
        degree: at least 1.
        offset: weighs low degrees against high ones; 0 leaves only those of `degree` itself.
    Returns: k(x_i, y_j), (N, M).
    Source: Boser, Guyon and Vapnik 1992, A Training Algorithm for Optimal Margin Classifiers, section 2.
    """
    return (offset + x @ y.T) ** degree


def rbf_kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"], gamma: float) -> Float[Tensor, "N M"]:
    r"""How near two points are: exp(-gamma |x - y|^2), 1 for a point and itself, towards 0 far away.

    Args:
        x: points, (N, D).
        y: points, (M, D).
        gamma: at least 0; 1 / sqrt(gamma) is the distance at which nearness has fallen to 1/e.
    Returns: k(x_i, y_j), (N, M).
    Source: Scholkopf and Smola 2002, Learning with Kernels, section 2.3.
    Lesson: 18.
    """
    gaps = x[:, None] - y[None]
    return (-gamma * gaps.square().sum(dim=-1)).exp()


def polynomial_features(x: Float[Tensor, "N D"], degree: int) -> Float[Tensor, "N F"]:
    r"""The space of the polynomial kernel with offset 1, written out.

    By the multinomial theorem the monomial x_1^a1 ... x_D^aD stands in (1 + x . y)^degree with the factor
    degree! / (a0! a1! ... aD!), where a0 is what is missing to the degree. Half of it goes to each side.

    Args:
        x: points, (N, D).
        degree: at least 1.
    Returns: features, F = `polynomial_dimension(D, degree)`, whose inner products are the kernel.
    """
    with_one = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
    columns = []
    for chosen in combinations_with_replacement(range(with_one.shape[1]), degree):
        counts = [math.factorial(chosen.count(i)) for i in set(chosen)]
        factor = math.factorial(degree) / math.prod(counts)
        columns.append(factor**0.5 * with_one[:, list(chosen)].prod(dim=1))
    return torch.stack(columns, dim=1)


def polynomial_dimension(n_inputs: int, degree: int) -> int:
    r"""Count the monomials of several variables up to a degree: C(n + d, d).

    Args:
        n_inputs: n, how many variables.
        degree: d.
    Returns: the number of features.
    """
    return math.comb(n_inputs + degree, degree)


def rbf_features(x: Float[Tensor, "N"], gamma: float, n_terms: int) -> Float[Tensor, "N n_terms"]:
    r"""The first coordinates of the RBF kernel's space, for points on a line.

    exp(-gamma (x - y)^2) = exp(-gamma x^2) exp(-gamma y^2) sum_k (2 gamma)^k x^k y^k / k!, and the sum never ends.

    Args:
        x: points, (N,).
        gamma: at least 0.
        n_terms: how many coordinates.
    Returns: features whose inner products come near the kernel.
    """
    k = torch.arange(n_terms, dtype=x.dtype)
    factors = (2 * gamma) ** (k / 2) * torch.exp(-0.5 * torch.lgamma(k + 1))
    return torch.exp(-gamma * x.square())[:, None] * factors * x[:, None] ** k


def gram_rank(gram: Float[Tensor, "N N"], tolerance: float = 1e-10) -> int:
    r"""Count the dimensions that points span in a kernel's space: eigenvalues of the Gram matrix that are not rounding.

    Args:
        gram: k(x_i, x_j), symmetric, float64.
        tolerance: eigenvalues below this share of the largest count as zero.
    Returns: the rank.
    """
    eigenvalues = torch.linalg.eigvalsh(gram)
    return int((eigenvalues > tolerance * eigenvalues.amax()).sum())
