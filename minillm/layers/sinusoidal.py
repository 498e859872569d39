r"""Fixed sine and cosine vectors for positions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sinusoidal(positions: Int[Tensor, "*shape"], d_model: int, base: float = 10000.0) -> Float[Tensor, "*shape D"]:
    r"""One vector a position: sines at even features, cosines at odd ones, from fast to slow.

    Args:
        positions: absolute token index, (T,) or (B, T), int; padding (-1) is treated as 0.
        d_model: D, even.
        base: the wavelengths run from 2 pi to 2 pi * base.
    Returns: (..., T, D) float32, between -1 and 1.
    Raises:
        ValueError: if d_model is odd.
    Source: Vaswani et al. 2017, section 3.5.
    Lesson: 04.
    """
    if d_model % 2:
        raise ValueError(f"d_model={d_model}: sine and cosine come in pairs, use an even number")
    inv_freq = base ** (-torch.arange(0, d_model, 2, dtype=torch.float32, device=positions.device) / d_model)
    angles = positions.clamp(min=0)[..., None].float() * inv_freq
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
