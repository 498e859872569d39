r"""ALiBi: no position vectors, only a penalty on scores that grows with distance."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.layers import pairwise


def alibi_slopes(n_heads: int) -> Float[Tensor, "H"]:
    r"""How steeply each head's penalty grows: 2^(-8/H), 2^(-16/H), ..., 2^-8.

    Where H is not a power of two, the slopes of the power of two below come first, then every second one of the next.

    Args:
        n_heads: H, at least 1.
    Returns: (H,) float32, per token of distance.
    Source: Press et al. 2021, section 3; the rule for other H is that of their published code.
    Lesson: 04.
    """
    below = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    slopes += [2 ** (-4 * (2 * i + 1) / below) for i in range(n_heads - below)]
    return torch.tensor(slopes)


def alibi_bias(
    q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"], slopes: Float[Tensor, "H"]
) -> Float[Tensor, "*out H Tq Tk"]:
    r"""The bias -slope * distance, added to the scaled scores before the softmax.

    Args:
        q_positions: (Tq,) or (B, Tq), int.
        kv_positions: (Tk,) or (B, Tk), int.
        slopes: (H,), from `alibi_slopes`.
    Returns: (H, Tq, Tk) or (B, H, Tq, Tk), dtype of slopes; 0 on the diagonal, negative for the past.
    Source: Press et al. 2021, Train Short, Test Long, section 3.
    Lesson: 04.
    """
    distance = pairwise.broadcast_pairwise(q_positions, kv_positions)
    return -slopes[:, None, None] * distance[..., None, :, :]
