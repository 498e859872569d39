r"""Recursive positions: each position's vector is made from the one before, by a small trained network."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def recursive_positions(
    start: Float[Tensor, "D"], weight: Float[Tensor, "D D"], bias: Float[Tensor, "D"], n_positions: int
) -> Float[Tensor, "n D"]:
    r"""p_0 = start, p_{t+1} = tanh(weight p_t + bias): a recurrent network without input.

    It has no table, so that there is a vector for every position, however far; and its parameters do not grow with the
    length. The price: n steps one after another.

    Args:
        start: p_0, (D,), float.
        weight: (D, D).
        bias: (D,).
        n_positions: n, at least 1.
    Returns: (n, D), dtype of start.
    Raises:
        ValueError: if n_positions is less than 1.
    Source: the idea is that of Liu et al. 2020, Learning to Encode Position for Transformer with Continuous Dynamical
        Model (FLOATER), section 3, which follows a differential equation; here the steps are those of an RNN.
    Lesson: 04.
    """
    if n_positions < 1:
        raise ValueError(f"n_positions={n_positions}: use at least 1")
    vectors = [start]
    for _ in range(n_positions - 1):
        vectors.append(torch.tanh(weight @ vectors[-1] + bias))
    return torch.stack(vectors)


class RecursivePosition(nn.Module):
    r"""Position vectors from a trained recurrence. A position's vector does not depend on the call: cached = uncached.

    Args:
        d_model: D.
    Source: as `recursive_positions`.
    Lesson: 04.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.start = nn.Parameter(torch.randn(d_model))
        self.weight = nn.Parameter(torch.randn(d_model, d_model) / d_model**0.5)
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, positions: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        r"""The vectors of these positions.

        Args:
            positions: (T,) or (B, T), int; padding (-1) is treated as 0.
        Returns: (..., T, D), float.
        """
        positions = positions.clamp(min=0)
        return recursive_positions(self.start, self.weight, self.bias, int(positions.max()) + 1)[positions]
