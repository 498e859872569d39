r"""Rotary positions: turn pairs of features by an angle that grows with the position."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rope_inv_freq(head_dim: int, base: float = 10000.0) -> Float[Tensor, "half"]:
    r"""How fast each pair turns: base^(-2i / Dh) radians per token for pair i.

    Args:
        head_dim: Dh, even.
        base: the constant that sets the slowest pair; larger means slower.
    Returns: (Dh / 2,) float32, radians per token, from 1 downwards.
    Raises:
        ValueError: if head_dim is odd.
    Source: Su et al. 2021, RoFormer, section 3.2.2 (their theta_i).
    Lesson: 04.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim}: RoPE turns pairs of features, use an even number")
    # One over the power, not the power of minus: rounded as in the code that models were trained with. The last bit
    # counts, because positions multiply it.
    return 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def rope_angles(
    positions: Int[Tensor, "*shape"], head_dim: int, base: float = 10000.0
) -> Float[Tensor, "*shape half"]:
    r"""The angle of every pair at every position: position * inv_freq.

    Args:
        positions: absolute token index, (T,) or (B, T), int; padding (-1) is treated as 0.
        head_dim: Dh, even.
        base: as in `rope_inv_freq`.
    Returns: (..., T, Dh / 2) float32, radians.
    Source: Su et al. 2021, RoFormer, section 3.2.2.
    Lesson: 04.
    """
    inv_freq = rope_inv_freq(head_dim, base).to(positions.device)
    return positions.clamp(min=0)[..., None].float() * inv_freq


def apply_rope(x: Float[Tensor, "*batch T Dh"], angles: Float[Tensor, "*any T half"]) -> Float[Tensor, "*batch T Dh"]:
    r"""Turn the pair (x_i, x_{i + Dh/2}) of each head by its angle.

    The dot product of a turned query and a turned key depends only on the distance of their positions.
    This is the `half` layout: features i and i + Dh/2 form a pair.

    Args:
        x: queries or keys, (..., T, Dh), float.
        angles: broadcasts to (..., T, Dh / 2), radians.
    Returns: (..., T, Dh), dtype of x; lengths of pairs are unchanged.
    Source: Su et al. 2021, RoFormer, equation 34; there neighbours (2i, 2i + 1) form a pair, which is the same up to
        the order of features.
    Lesson: 04.
    """
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def turn_heads(
    x: Float[Tensor, "B H T Dh"], angles: Float[Tensor, "*b T half"], amplitude: float = 1.0
) -> Float[Tensor, "B H T Dh"]:
    r"""Turn every head by the same angles; where there are angles for a part of the features only, the first ones.

    Args:
        x: queries or keys, (B, H, T, Dh), float.
        angles: (T, half) or (B, T, half), radians; 2 * half of the Dh features are turned.
        amplitude: factor on the turned features; 1 except for YaRN and LongRoPE.
    Returns: (B, H, T, Dh), dtype of x.
    Source: Su et al. 2021, RoFormer, section 3.2.2; a part of the features: Black et al. 2022, GPT-NeoX-20B, section
        2.1.1.
    Lesson: 04.
    """
    if angles.dim() == 3:
        angles = angles[:, None]
    width = 2 * angles.shape[-1]
    turned = apply_rope(x[..., :width], angles)
    if amplitude != 1.0:
        turned = turned * amplitude
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], dim=-1)
