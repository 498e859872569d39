r"""torch's own kernels for weights in 8 and in 4 bits: found out by a trial, used where they fit, never required.

They read each weight once, as it is stored, and restore it in registers. On the CPU they want activations in bfloat16
(others are many times slower) and round the scales to bfloat16. They are private functions of torch, which may go, and
the one for 8 bits reads beyond its memory where the columns do not come in sixteens. So all of that is asked here.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import BFloat16, Float, Int8, UInt8
from torch import Tensor

from minillm.inference.quantization import int4, int8_linear, rows

MOST_ROWS = 16  # of activations; the kernels restore for each row anew, so beyond it pays to do it once
COLUMNS = 16  # of the 8-bit kernel: whole steps only
OUTPUTS = 16  # of the 4-bit kernel
GROUP_SIZES = (32, 64, 128, 256)  # that it knows
MIDDLE = 8  # it takes code 8 for zero


@dataclass(frozen=True)
class PackedInt4:
    r"""A matrix in 4 bits as torch's kernel wants it.

    Args:
        weight: codes in the kernel's own order.
        scales_and_zeros: (G, R, 2), bfloat16: of each group its scale and the value of code 8.
        group_size: C / G.
    Lesson: 11.
    """

    weight: Tensor
    scales_and_zeros: Tensor
    group_size: int


def suits_int8(x: Float[Tensor, "*batch C"]) -> bool:
    r"""Whether `int8_product` may be called: activations that the kernel likes, and a torch that has it.

    Args:
        x: activations, (..., C).
    Returns: True if it may, and pays.
    Lesson: 11.
    """
    return _suits(x) and x.shape[-1] % COLUMNS == 0 and int8_kernel_works()


def int8_product(
    x: BFloat16[Tensor, "*batch C"], q_weight: Int8[Tensor, "R C"], scales: Float[Tensor, "R 1"]
) -> BFloat16[Tensor, "*batch R"]:
    r"""As `int8_linear.int8_linear` without bias, by torch's kernel, with scales rounded to bfloat16.

    Args:
        x: activations for which `suits_int8` says True.
        q_weight: (R, C), int8, contiguous.
        scales: (R, 1).
    Returns: (..., R), bfloat16.
    Raises:
        ValueError: if C is not a multiple of 16.
    Source: PyTorch, `torch._weight_int8pack_mm`.
    Lesson: 11.
    """
    if x.shape[-1] % COLUMNS:
        raise ValueError(f"x has {x.shape[-1]} columns: torch's kernel takes multiples of {COLUMNS}; use int8_linear")
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    return torch._weight_int8pack_mm(flat, q_weight, scales.flatten().bfloat16()).unflatten(0, x.shape[:-1])


def suits_int4(x: Float[Tensor, "*batch C"], n_rows: int, group_size: int) -> bool:
    r"""Whether a matrix may be packed for `int4_product`, and whether it pays to call it.

    Args:
        x: activations, (..., C).
        n_rows: R, outputs of the matrix.
        group_size: numbers that share a scale.
    Returns: True if it may, and pays.
    Lesson: 11.
    """
    return _suits(x) and n_rows % OUTPUTS == 0 and group_size in GROUP_SIZES and int4_kernel_works()


def pack_int4(
    codes: UInt8[Tensor, "R C"], scales: Float[Tensor, "R G"], lows: Float[Tensor, "R G"]
) -> PackedInt4:
    r"""A matrix from `int4.int4_groups` in the order that torch's kernel for the CPU wants.

    Args:
        codes: (R, C), uint8, 0 to 15; R a multiple of 16, C / G one of 32, 64, 128 and 256.
        scales: (R, G), rounded to bfloat16 here.
        lows: (R, G), likewise, as the values of code 8: low + 8 * scale.
    Returns: the matrix in 4 bits.
    Raises:
        ValueError: if the sizes are none of the kernel's.
    Source: PyTorch, `torch._convert_weight_to_int4pack_for_cpu`.
    Lesson: 11.
    """
    group_size = codes.shape[1] // scales.shape[1]
    if codes.shape[0] % OUTPUTS or group_size not in GROUP_SIZES:
        raise ValueError(f"codes {tuple(codes.shape)} in groups of {group_size}: torch's kernel takes rows in "
                         f"multiples of {OUTPUTS} and groups of {GROUP_SIZES}; use int4_linear")
    zeros = lows.float() + MIDDLE * scales.float()
    both = torch.stack([scales.float(), zeros], dim=-1).transpose(0, 1).contiguous().bfloat16()
    return PackedInt4(torch._convert_weight_to_int4pack_for_cpu(codes.int(), 1), both, group_size)


def int4_product(x: BFloat16[Tensor, "*batch C"], matrix: PackedInt4) -> BFloat16[Tensor, "*batch R"]:
    r"""As `int4.int4_linear` without bias, by torch's kernel.

    Args:
        x: activations for which `suits_int4` says True.
        matrix: from `pack_int4`.
    Returns: (..., R), bfloat16.
    Source: PyTorch, `torch._weight_int4pack_mm_for_cpu`.
    Lesson: 11.
    """
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    out = torch._weight_int4pack_mm_for_cpu(flat, matrix.weight, matrix.group_size, matrix.scales_and_zeros)
    return out.unflatten(0, x.shape[:-1])


@cache
def int8_kernel_works() -> bool:
    r"""Whether this torch has the 8-bit kernel on this processor, and it gives what the readable product gives."""
    weight, x = _trial()
    q, scales = rows.quantize_rows(weight)
    try:
        got = int8_product(x, q, scales)
    except (AttributeError, RuntimeError):
        return False
    return _close(got, int8_linear.int8_linear(x, q, scales))


@cache
def int4_kernel_works() -> bool:
    r"""Whether this torch has the 4-bit kernel on this processor, and it gives what the readable product gives."""
    weight, x = _trial()
    codes, scales, lows = int4.int4_groups(weight)
    try:
        got = int4_product(x, pack_int4(codes, scales, lows))
    except (AttributeError, RuntimeError):
        return False
    return _close(got, int4.int4_linear(x, int4.pack_nibbles(codes), scales, lows))


def _suits(x: Tensor) -> bool:
    needs_gradient = torch.is_grad_enabled() and x.requires_grad  # the kernels have none
    few = 0 < x.numel() <= MOST_ROWS * x.shape[-1]
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and few and not needs_gradient


def _trial() -> tuple[Tensor, Tensor]:
    r"""A matrix of numbers that are not all alike, without chance, and some of its rows as activations."""
    weight = torch.arange(32 * 64).view(32, 64).float().mul(0.7).sin()
    return weight, weight[:3].bfloat16()


def _close(got: Tensor, want: Tensor) -> bool:
    return bool((got.float() - want.float()).abs().max() <= 0.02 * want.float().abs().max())
