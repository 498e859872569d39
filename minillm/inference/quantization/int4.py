r"""4 bits a number: groups within a row, each with a lowest value and a step of its own."""

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

HIGHEST = 15  # codes 0 to 15


def int4_groups(
    weight: Float[Tensor, "R C"], group_size: int = 32
) -> tuple[UInt8[Tensor, "R C"], Float[Tensor, "R G"], Float[Tensor, "R G"]]:
    r"""Each group of a row as codes 0 to 15: value = code * scale + low.

    `low` is the group's smallest number and the scale is 1/15 of the way to its largest: all 16 codes cover what is
    there, wherever it lies (asymmetric, or zero-point quantization). |weight - restored| <= scale / 2.

    Args:
        weight: (R, C), float.
        group_size: numbers that share a scale; must divide C.
    Returns: codes (R, C), uint8; scales and lows, each (R, C / group_size), float32; scale 0 where all are equal.
    Raises:
        ValueError: if group_size is less than 1 or does not divide C.
    Source: the format Q4_1 of GGUF; Frantar et al. 2022, GPTQ, section 4, for groups within a row.
    Lesson: 11.
    """
    if group_size < 1 or weight.shape[1] % group_size:
        raise ValueError(f"group_size={group_size} does not divide the {weight.shape[1]} numbers of a row; use a "
                         "divisor, or leave this matrix in 8 bits")
    groups = rearrange(weight.float(), "r (g n) -> r g n", n=group_size)
    lows, highs = groups.amin(dim=-1), groups.amax(dim=-1)
    scales = (highs - lows) / HIGHEST
    steps = scales.where(scales > 0, torch.ones_like(scales))
    codes = ((groups - lows[..., None]) / steps[..., None]).round().clamp(0, HIGHEST)
    return rearrange(codes.to(torch.uint8), "r g n -> r (g n)"), scales, lows


def restore_int4(
    codes: UInt8[Tensor, "R C"],
    scales: Float[Tensor, "R G"],
    lows: Float[Tensor, "R G"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "R C"]:
    r"""The matrix that `int4_groups` stored, but for its rounding.

    Args:
        codes: (R, C), uint8, 0 to 15.
        scales: (R, G), of groups of C / G numbers.
        lows: (R, G).
        dtype: of the result.
    Returns: (R, C), of that dtype.
    Source: the format Q4_1 of GGUF.
    Lesson: 11.
    """
    groups = rearrange(codes.float(), "r (g n) -> r g n", g=scales.shape[1])
    groups.mul_(scales[..., None]).add_(lows[..., None])  # in place: fresh memory costs more than the arithmetic
    return rearrange(groups, "r g n -> r (g n)").to(dtype)


def pack_nibbles(codes: UInt8[Tensor, "R C"]) -> UInt8[Tensor, "R C_half"]:
    r"""Two codes in a byte: those of columns 2j and 2j + 1 in byte j, the former in the low four bits.

    Args:
        codes: (R, C), uint8, 0 to 15; C even.
    Returns: (R, C / 2), uint8.
    Raises:
        ValueError: if C is odd.
    Lesson: 11.
    """
    if codes.shape[1] % 2:
        raise ValueError(f"codes has {codes.shape[1]} columns: two go into a byte; use an even number of columns")
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_nibbles(packed: UInt8[Tensor, "R C_half"]) -> UInt8[Tensor, "R C"]:
    r"""The codes that `pack_nibbles` packed.

    Args:
        packed: (R, C / 2), uint8.
    Returns: (R, C), uint8, 0 to 15.
    Lesson: 11.
    """
    return torch.stack([packed & HIGHEST, packed >> 4], dim=-1).flatten(start_dim=1)


def int4_linear(
    x: Float[Tensor, "*batch C"],
    packed: UInt8[Tensor, "R C_half"],
    scales: Float[Tensor, "R G"],
    lows: Float[Tensor, "R G"],
    bias: Float[Tensor, "R"] | None = None,
) -> Float[Tensor, "*batch R"]:
    r"""A linear layer over a matrix in 4 bits: restore it, multiply, and let it go again.

    What is stored, and read from slow memory when another layer has pushed it out of the cache, is small; what is
    multiplied is a matrix like any other. On a device with a kernel for it, both happen in one pass (`packed`).

    Args:
        x: activations, (..., C), float.
        packed: (R, C / 2), uint8, from `pack_nibbles`.
        scales: (R, G), from `int4_groups`.
        lows: (R, G).
        bias: (R,), or None.
    Returns: (..., R), dtype of x.
    Source: Frantar et al. 2022, GPTQ, section 4, on kernels that restore while they multiply.
    Lesson: 11.
    """
    out = x @ restore_int4(unpack_nibbles(packed), scales, lows, x.dtype).T
    return out if bias is None else out + bias
