r"""Whole numbers for floats at any width: a step, a zero point, and who shares them."""

import torch
from jaxtyping import Float, Float32, Int32, UInt8
from torch import Tensor

NARROWEST, WIDEST = 2, 16  # bits


def quantize_affine(
    x: Float[Tensor, "R C"], n_bits: int = 8, per: str | int = "row", symmetric: bool = False
) -> tuple[Int32[Tensor, "R C"], Float32[Tensor, "r G"], Int32[Tensor, "r G"]]:
    r"""Numbers as scale * (code - zero), with whole codes and zeros.

    Asymmetric (zero-point) quantization lays 2**n_bits codes from the smallest number to the largest; the range is
    first widened to hold 0, so that the zero point is a code and 0.0 comes back as exactly 0.0. The symmetric form
    (absmax) puts the zero point at 0 and drops one code: [-127, 127] of 8 bits. Rounding moves a number by at most
    scale / 2 (and the zero point's own rounding the ends of the range by as much again), and on average, where the
    numbers lie evenly between the codes, by scale / sqrt(12) in the root mean square: one bit more halves it.

    Args:
        x: (R, C), float.
        n_bits: 2 to 16.
        per: who shares a scale: "tensor", "row", or a number of neighbours within a row (it must divide C).
        symmetric: whether the zero point is 0.
    Returns: codes (R, C), int32, 0 .. 2**n_bits - 1, or symmetric about 0; scales, float32, and zeros, int32, both
        (1, 1), (R, 1) or (R, C / per). Where all numbers are 0 the scale is 1.
    Raises:
        ValueError: if n_bits is out of range, or `per` is no such choice.
    Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, section 2.1, equation 1: r = S (q - Z).
    Lesson: 11.
    """
    if not NARROWEST <= n_bits <= WIDEST:
        raise ValueError(f"n_bits={n_bits}: choose {NARROWEST} to {WIDEST}")
    groups = sharing_groups(x.float(), per)
    if symmetric:
        top = 2 ** (n_bits - 1) - 1
        scales = _no_zeros(groups.abs().amax(dim=-1) / top)
        lowest, zeros = -top, torch.zeros_like(scales)
    else:
        top, lowest = 2**n_bits - 1, 0
        lows, highs = groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)
        scales = _no_zeros((highs - lows) / top)
        zeros = (-lows / scales).round()
    codes = ((groups / scales[..., None]).round() + zeros[..., None]).clamp(lowest, top)
    return codes.reshape(x.shape).to(torch.int32), scales, zeros.to(torch.int32)


def restore_affine(
    codes: Int32[Tensor, "R C"],
    scales: Float[Tensor, "r G"],
    zeros: Int32[Tensor, "r G"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "R C"]:
    r"""The numbers that `quantize_affine` stored, but for its rounding.

    Args:
        codes: (R, C), int32.
        scales: (1, 1), (R, 1) or (R, G).
        zeros: the same shape.
        dtype: of the result.
    Returns: (R, C), of that dtype.
    Source: Jacob et al. 2018, equation 1.
    Lesson: 11.
    """
    groups = codes.reshape(codes.shape[0], scales.shape[1], -1)
    return ((groups - zeros[..., None]) * scales[..., None]).reshape(codes.shape).to(dtype)


def quantize_groups(
    weight: Float[Tensor, "R C"], n_bits: int = 4, group_size: int = 32
) -> tuple[UInt8[Tensor, "R C"], Float[Tensor, "R G"], Float[Tensor, "R G"]]:
    r"""As `int4.int4_groups`, at any width up to 8 bits: value = code * scale + low.

    Args:
        weight: (R, C), float.
        n_bits: 2 to 8.
        group_size: numbers that share a scale; must divide C.
    Returns: codes (R, C), uint8, 0 .. 2**n_bits - 1; scales and lows, (R, C / group_size), in float32 (float64 if the
        weight is). `int4.restore_int4` restores them.
    Raises:
        ValueError: if n_bits is out of range, or group_size does not divide C.
    Source: Frantar et al. 2022, GPTQ, section 5: round to nearest (RTN), and groups within a row.
    Lesson: 11.
    """
    if not NARROWEST <= n_bits <= 8:
        raise ValueError(f"n_bits={n_bits}: choose {NARROWEST} to 8")
    groups = sharing_groups(weight if weight.dtype == torch.float64 else weight.float(), group_size)
    scales, lows = grid_of(groups, n_bits)
    codes = nearest_codes(groups, scales[..., None], lows[..., None], n_bits)
    return codes.reshape(weight.shape), scales, lows


def grid_of(groups: Float[Tensor, "*g n"], n_bits: int) -> tuple[Float[Tensor, "*g"], Float[Tensor, "*g"]]:
    r"""Step and lowest value of the codes that reach from the smallest number of a group to its largest.

    Args:
        groups: (..., n), float; each row of n is a group.
        n_bits: at least 1.
    Returns: scales and lows, (...), the dtype of groups; scale 0 where all numbers of a group are equal.
    Lesson: 11.
    """
    lows, highs = groups.amin(dim=-1), groups.amax(dim=-1)
    return (highs - lows) / (2**n_bits - 1), lows


def nearest_codes(
    x: Float[Tensor, "*g"], scales: Float[Tensor, "*#g"], lows: Float[Tensor, "*#g"], n_bits: int
) -> UInt8[Tensor, "*g"]:
    r"""The code whose value lies nearest to each number, on a given grid.

    Args:
        x: (...), float; what lies outside the grid gets its first or last code.
        scales: of the codes; broadcast to x.
        lows: value of code 0; broadcast to x.
        n_bits: 1 to 8.
    Returns: the shape of x, uint8.
    Lesson: 11.
    """
    return ((x - lows) / _no_zeros(scales)).round().clamp(0, 2**n_bits - 1).to(torch.uint8)


def sharing_groups(x: Float[Tensor, "R C"], per: str | int) -> Float[Tensor, "r G n"]:
    r"""Put the numbers that share a scale side by side.

    Args:
        x: (R, C), float.
        per: "tensor", "row", or a number that divides C.
    Returns: (1, 1, R * C), (R, 1, C) or (R, C / per, per).
    Raises:
        ValueError: if `per` is no such choice.
    Lesson: 11.
    """
    if per == "tensor":
        return x.reshape(1, 1, -1)
    if per == "row":
        return x[:, None]
    if isinstance(per, str) or per < 1 or x.shape[1] % per:
        raise ValueError(f'{per!r} numbers cannot share a scale: say "tensor", "row", or a number that divides the '
                         f"{x.shape[1]} numbers of a row")
    return x.reshape(len(x), -1, per)


def bits_per_number(n_bits: int | float, n_sharing: int, bits_beside: int | float = 32) -> float:
    r"""What a number weighs with its share of what is stored beside the codes.

    Args:
        n_bits: of a code.
        n_sharing: numbers that share a scale.
        bits_beside: of what they share: 16 for a scale in half precision, 32 for scale and lowest value.
    Returns: bits.
    Lesson: 11.
    """
    return n_bits + bits_beside / n_sharing


def relative_error(x: Float[Tensor, "*s"], restored: Float[Tensor, "*s"]) -> float:
    r"""How large the rounding is beside the numbers: the norm of the difference over the norm.

    Args:
        x: before, any shape; not all 0.
        restored: after, the same shape.
    Returns: 0.01 is one per cent.
    Lesson: 11.
    """
    before = x.double()
    return float((restored.double() - before).norm() / before.norm())


def _no_zeros(scales: Tensor) -> Tensor:
    return scales.where(scales > 0, torch.ones_like(scales))
