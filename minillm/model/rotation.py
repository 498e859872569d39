r"""RoPE as the configuration wants it: the angles of each position, and their factor."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.config import (
    DynamicNtk,
    Llama3Scaling,
    LongRope,
    ModelConfig,
    NtkAware,
    PositionInterpolation,
    Proportional,
    Rope,
    Yarn,
)
from minillm.layers import rope, rope_scaling


def model_angles(config: ModelConfig, positions: Int[Tensor, "*b T"]) -> Float[Tensor, "*b T half"] | None:
    r"""The angles by which a model turns queries and keys.

    Args:
        config: the model's configuration.
        positions: (T,) or (B, T), int; padding (-1) is treated as 0.
    Returns: (..., T, half) float32, radians; None where the model has no RoPE.
    Source: Su et al. 2021, RoFormer, section 3.2.2; for longer texts see `layers.rope_scaling`.
    Lesson: 04.
    """
    position, width = config.position, config.rotary_dim()
    if not isinstance(position, Rope):
        return None
    if position.scaling is None:
        return rope.rope_angles(positions, width, position.base)
    seq_len = int(positions.max()) + 1 if position.depends_on_length() else 0
    inv_freq = scaled_inv_freq(position, width, seq_len).to(positions.device)
    return positions.clamp(min=0)[..., None].float() * inv_freq


def scaled_inv_freq(position: Rope, rotary_dim: int, seq_len: int = 0) -> Float[Tensor, "half"]:
    r"""How fast each pair turns, slowed down as the configuration says.

    Args:
        position: RoPE's choices, with a scaling.
        rotary_dim: features of a head that are turned.
        seq_len: the length seen, for the scalings that depend on it.
    Returns: (rotary_dim / 2,) float32, radians per token.
    Source: see `layers.rope_scaling`, each function for its own.
    Lesson: 04.
    """
    base, scaling = position.base, position.scaling
    plain = rope.rope_inv_freq(rotary_dim, base)
    match scaling:
        case PositionInterpolation():
            return rope_scaling.interpolated_inv_freq(plain, scaling.factor)
        case NtkAware():
            return rope.rope_inv_freq(rotary_dim, rope_scaling.ntk_base(base, scaling.factor, rotary_dim))
        case DynamicNtk():
            grown = rope_scaling.dynamic_ntk_base(base, scaling.factor, rotary_dim, seq_len, scaling.original_len)
            return rope.rope_inv_freq(rotary_dim, grown)
        case Yarn():
            return rope_scaling.yarn_inv_freq(
                rotary_dim, base, scaling.factor, scaling.original_len, scaling.beta_fast, scaling.beta_slow,
                scaling.truncate)
        case Llama3Scaling():
            return rope_scaling.llama3_inv_freq(
                plain, scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_len)
        case LongRope():
            factors = scaling.long if seq_len > scaling.original_len else scaling.short
            return rope_scaling.longrope_inv_freq(rotary_dim, base, torch.tensor(factors))
        case Proportional():
            return rope_scaling.proportional_inv_freq(rotary_dim, base, scaling.share, scaling.factor)
        case _:
            return plain


def rope_amplitude(config: ModelConfig) -> float:
    r"""The factor on turned features.

    Args:
        config: the model's configuration.
    Returns: 1 but for YaRN and LongRoPE.
    Source: Peng et al. 2023, YaRN, section 3.4; Ding et al. 2024, LongRoPE.
    Lesson: 04.
    """
    scaling = config.position.scaling if isinstance(config.position, Rope) else None
    if isinstance(scaling, Yarn) and scaling.amplitude is None:
        return rope_scaling.yarn_amplitude(scaling.factor)
    return scaling.amplitude if isinstance(scaling, Yarn | LongRope) else 1.0
