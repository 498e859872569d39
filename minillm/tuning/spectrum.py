r"""The singular values of a change: how many directions it has, and what is lost with fewer."""

import torch
from jaxtyping import Float
from torch import Tensor


def singular_values(change: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n"]:
    r"""How far a matrix stretches each of its directions, the strongest first.

    Args:
        change: such as the difference of a weight after and before fine-tuning, (d_out, d_in), float.
    Returns: (min(d_out, d_in),), float64, falling, none below 0.
    Raises:
        ValueError: if it is no matrix, or holds a number that is not finite.
    Source: Eckart and Young 1936, The Approximation of One Matrix by Another of Lower Rank.
    Lesson: 13.
    """
    if change.dim() != 2 or not bool(change.isfinite().all()):
        raise ValueError(f"change of shape {tuple(change.shape)}: give one matrix of finite numbers")
    return torch.linalg.svdvals(change.detach().double())


def rank_error(change: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "n_and_one"]:
    r"""The least that is lost of a matrix if it has to be written with rank 0, 1, 2, ...

    The best matrix of rank r keeps the r strongest directions; what it misses is the root of the sum of squares of the
    other singular values. It is measured against the whole: 1 is everything.

    Args:
        change: (d_out, d_in), float.
    Returns: (min(d_out, d_in) + 1,), float64: the relative error at each rank from 0 on, falling from 1 to 0; all zeros
        for a matrix of zeros.
    Source: Eckart and Young 1936; Hu et al. 2021, LoRA, section 7.2, who ask how many of the directions matter.
    Lesson: 13.
    """
    squares = singular_values(change).square()
    missed = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    return (missed / missed[0].clamp(min=torch.finfo(missed.dtype).tiny)).sqrt()


def best_change(change: Float[Tensor, "d_out d_in"], rank: int) -> Float[Tensor, "d_out d_in"]:
    r"""The nearest matrix of a rank: no LoRA of this rank can do better.

    Args:
        change: (d_out, d_in), float.
        rank: 0 to min(d_out, d_in).
    Returns: (d_out, d_in), dtype of change.
    Raises:
        ValueError: if the rank is out of its range.
    Source: Eckart and Young 1936.
    Lesson: 13.
    """
    if not 0 <= rank <= min(change.shape):
        raise ValueError(f"rank={rank}: use 0 to {min(change.shape)}, the smaller side of the matrix")
    u, s, vt = torch.linalg.svd(change.detach().double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vt[:rank]).to(change.dtype)


def effective_rank(change: Float[Tensor, "d_out d_in"]) -> float:
    r"""How many directions a matrix has, if weak ones count for less: the exponential of their entropy.

    n equal singular values give n, and one value far above the others a number near 1.

    Args:
        change: (d_out, d_in), float.
    Returns: 1 to min(d_out, d_in); 0 for a matrix of zeros.
    Source: Roy and Vetterli 2007, The Effective Rank: A Measure of Effective Dimensionality, section 2.
    Lesson: 13.
    """
    values = singular_values(change)
    if not bool(values.any()):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def rank_for_error(change: Float[Tensor, "d_out d_in"], error: float) -> int:
    r"""The smallest rank with which no more than a share of a matrix is lost.

    Args:
        change: (d_out, d_in), float.
        error: relative, 0 to 1, as in `rank_error`.
    Returns: 0 to min(d_out, d_in).
    Raises:
        ValueError: if the error is out of its range.
    Source: Eckart and Young 1936.
    Lesson: 13.
    """
    if not 0 <= error <= 1:
        raise ValueError(f"error={error}: use a share from 0 to 1, such as 0.1")
    return int((rank_error(change) > error).sum())
