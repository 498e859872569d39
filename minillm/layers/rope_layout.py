r"""RoPE's two layouts: which features form a pair, and how to bring weights from one to the other.

    half          pairs (0, 4) (1, 5) (2, 6) (3, 7)      everywhere in this package
    interleaved   pairs (0, 1) (2, 3) (4, 5) (6, 7)      the paper, GPT-J, the files of LLaMA as Meta published them

The two compute the same scores if the rows of q_proj and k_proj are put into the other order, the same one for both. A
model that is run with the wrong layout still writes text, only badly: convert its weights once, and test.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor


def apply_rope_interleaved(
    x: Float[Tensor, "*batch T Dh"], angles: Float[Tensor, "*any T half"]
) -> Float[Tensor, "*batch T Dh"]:
    r"""`rope.apply_rope` in the other layout: turn the pair of neighbours (x_2i, x_{2i + 1}) by angle i.

    Args:
        x: queries or keys, (..., T, Dh), float.
        angles: broadcasts to (..., T, Dh / 2), radians.
    Returns: (..., T, Dh), dtype of x.
    Source: Su et al. 2021, RoFormer, equation 34.
    Lesson: 04.
    """
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


def interleaved_to_half(
    weight: Shaped[Tensor, "rows *columns"], n_heads: int, rotary_dim: int | None = None
) -> Shaped[Tensor, "rows *columns"]:
    r"""Reorder the rows of q_proj or k_proj from the interleaved layout to the half layout.

    Within each head the features 0 1 2 3 4 5 come to stand as 0 2 4 1 3 5.

    Args:
        weight: (n_heads * Dh, D), or a bias (n_heads * Dh,).
        n_heads: heads of this projection: n_kv_heads for k_proj.
        rotary_dim: features of a head that are turned, the first ones; None = all.
    Returns: the same rows in another order.
    Raises:
        ValueError: if the rows cannot be cut into heads, or heads into pairs.
    Source: Su et al. 2021, RoFormer, equation 34, for the interleaved layout.
    Lesson: 04.
    """
    return _reorder(weight, n_heads, rotary_dim, "h (pair two) ... -> h (two pair) ...")


def half_to_interleaved(
    weight: Shaped[Tensor, "rows *columns"], n_heads: int, rotary_dim: int | None = None
) -> Shaped[Tensor, "rows *columns"]:
    r"""The way back: within each head the features 0 1 2 3 4 5 come to stand as 0 3 1 4 2 5.

    Args:
        weight: (n_heads * Dh, D), or a bias (n_heads * Dh,).
        n_heads: heads of this projection: n_kv_heads for k_proj.
        rotary_dim: features of a head that are turned, the first ones; None = all.
    Returns: the same rows in another order.
    Raises:
        ValueError: if the rows cannot be cut into heads, or heads into pairs.
    Source: as `interleaved_to_half`.
    Lesson: 04.
    """
    return _reorder(weight, n_heads, rotary_dim, "h (two pair) ... -> h (pair two) ...")


def _reorder(weight: Tensor, n_heads: int, rotary_dim: int | None, pattern: str) -> Tensor:
    if len(weight) % n_heads:
        raise ValueError(f"n_heads={n_heads}: does not divide the {len(weight)} rows of weight; use a divisor")
    head_dim = len(weight) // n_heads
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ValueError(f"rotary_dim={rotary_dim}: use an even number up to head_dim={head_dim}")
    by_head = weight.unflatten(0, (n_heads, head_dim))
    turned = rearrange(by_head[:, :rotary_dim], pattern, two=2)
    return torch.cat([turned, by_head[:, rotary_dim:]], dim=1).flatten(0, 1)
