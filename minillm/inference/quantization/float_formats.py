r"""What the bits of a float mean: sign, exponent, mantissa."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class FloatFormat:
    r"""A binary floating-point format of the IEEE kind: with infinities, NaN and subnormal numbers.

    Args:
        name: as we call it.
        exponent_bits: they set the range.
        mantissa_bits: those after the leading 1, which is not stored; they set the precision.
    Source: IEEE 754-2008, section 3.4; bf16: Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training.
    Lesson: 11.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int

    @property
    def n_bits(self) -> int:
        r"""All bits of a number, the sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        r"""What is subtracted from the stored exponent."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def largest(self) -> float:
        r"""The largest finite number."""
        return (2 - self.eps) * 2.0**self.bias

    @property
    def smallest_normal(self) -> float:
        r"""The smallest number with all its mantissa bits."""
        return 2.0 ** (1 - self.bias)

    @property
    def smallest(self) -> float:
        r"""The smallest subnormal number above 0."""
        return self.smallest_normal * self.eps

    @property
    def eps(self) -> float:
        r"""From 1 to the next larger number."""
        return 2.0**-self.mantissa_bits


FORMATS = {
    "fp32": FloatFormat("fp32", 8, 23),
    "fp16": FloatFormat("fp16", 5, 10),
    "bf16": FloatFormat("bf16", 8, 7),
    "fp8": FloatFormat("fp8", 5, 2),  # E5M2; its sibling E4M3 gives up infinities for range
}


def format_of(dtype: torch.dtype) -> FloatFormat:
    r"""The format behind a dtype.

    Args:
        dtype: torch.float32, torch.float16, torch.bfloat16 or torch.float8_e5m2.
    Returns: the format.
    Raises:
        ValueError: for another dtype.
    Lesson: 11.
    """
    known = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float8_e5m2: "fp8"}
    if dtype not in known:
        raise ValueError(f"dtype={dtype}: choose one of {', '.join(map(str, known))}")
    return FORMATS[known[dtype]]


def split_bits(x: Tensor) -> tuple[Int64[Tensor, "..."], Int64[Tensor, "..."], Int64[Tensor, "..."]]:
    r"""Take the bits of floats apart.

    Args:
        x: any shape, float32, float16, bfloat16 or float8_e5m2.
    Returns: sign, stored exponent and stored mantissa, each as a whole number in the shape of x.
    Raises:
        ValueError: for another dtype.
    Source: IEEE 754-2008, section 3.4.
    Lesson: 11.
    """
    kind = format_of(x.dtype)
    whole = {32: torch.int32, 16: torch.int16, 8: torch.int8}[kind.n_bits]
    bits = x.contiguous().view(whole).to(torch.int64) & (2**kind.n_bits - 1)
    exponent = (bits >> kind.mantissa_bits) & (2**kind.exponent_bits - 1)
    return bits >> (kind.n_bits - 1), exponent, bits & (2**kind.mantissa_bits - 1)


def value_of_bits(
    sign: Int64[Tensor, "*s"], exponent: Int64[Tensor, "*s"], mantissa: Int64[Tensor, "*s"], kind: FloatFormat
) -> Float[Tensor, "*s"]:
    r"""The number that three fields stand for.

    (-1)^sign * 2^(exponent - bias) * (1 + mantissa / 2^m). An exponent of all zeros means subnormal: no leading 1, and
    the exponent of the smallest normal numbers. One of all ones means infinity, or NaN where the mantissa is not 0.

    Args:
        sign: 0 or 1.
        exponent: as stored.
        mantissa: as stored.
        kind: the format.
    Returns: the same shape, float64.
    Source: IEEE 754-2008, section 3.4.
    Lesson: 11.
    """
    fraction = mantissa.double() * kind.eps
    normal = torch.exp2((exponent - kind.bias).double()) * (1 + fraction)
    size = torch.where(exponent == 0, fraction * kind.smallest_normal, normal)
    special = torch.where(mantissa == 0, float("inf"), float("nan"))
    size = torch.where(exponent == 2**kind.exponent_bits - 1, special, size)
    return torch.where(sign == 1, -size, size)


def round_to_format(x: Float[Tensor, "*s"], kind: FloatFormat) -> Float[Tensor, "*s"]:
    r"""Round numbers to the nearest that a format has, ties to the even mantissa.

    Between two powers of two all numbers of the format have the same distance, 2^(exponent - mantissa_bits): divide by
    it, round to a whole number, multiply. What lies beyond the largest number, by half a step or more, becomes
    infinite.

    Args:
        x: any shape, float.
        kind: the format; its exponents must not reach further than those of float32.
    Returns: the same shape, float64, which holds every number of these formats exactly.
    Source: IEEE 754-2008, section 4.3.1, roundTiesToEven.
    Lesson: 11.
    """
    exact = x.double()
    exponent = torch.frexp(exact)[1].double() - 1  # frexp's mantissa lies in [0.5, 1)
    step = torch.exp2(exponent.clamp(min=1 - kind.bias, max=kind.bias) - kind.mantissa_bits)
    rounded = (exact / step).round() * step
    beyond = exact.isfinite() & (rounded.abs() > kind.largest)
    return torch.where(beyond, torch.copysign(torch.full_like(exact, float("inf")), exact), rounded)


def bit_string(x: Tensor) -> str:
    r"""One float as its bits, fields apart: "0 01111 0000000000" is 1.0 in float16.

    Args:
        x: one number, of a dtype that `format_of` knows.
    Returns: sign, exponent and mantissa in binary, with a blank between.
    Raises:
        ValueError: for another dtype, or for more than one number.
    Lesson: 11.
    """
    if x.numel() != 1:
        raise ValueError(f"x has {x.numel()} numbers; give one")
    kind = format_of(x.dtype)
    sign, exponent, mantissa = (int(part) for part in split_bits(x.reshape(1)))
    return f"{sign} {exponent:0{kind.exponent_bits}b} {mantissa:0{kind.mantissa_bits}b}"
