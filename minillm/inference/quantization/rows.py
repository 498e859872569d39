r"""8 bits a number and one scale a row: the simplest format that loses little."""

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

LARGEST = 127  # symmetric: -128 is not used


def quantize_rows(
    weight: Float[Tensor, "*rows C"],
) -> tuple[Int8[Tensor, "*rows C"], Float32[Tensor, "*rows 1"]]:
    r"""Each row as whole numbers in [-127, 127] times a scale of its own (absmax).

    The scale is the row's largest absolute number / 127. Rounding moves a number by half a step at most, so
    |weight - restored| <= scale / 2. A row is whatever lies along the last dimension: the weights of one output of a
    matrix, or one stored vector of a cache.

    Args:
        weight: (..., C), float.
    Returns: (..., C) int8, and the scales, (..., 1) float32; 0 for a row of zeros.
    Source: Dettmers et al. 2022, LLM.int8(), section 2, absmax quantization, here for each row.
    Lesson: 11.
    """
    exact = weight.float()
    scales = exact.abs().amax(dim=-1, keepdim=True) / LARGEST
    steps = exact / scales.where(scales > 0, torch.ones_like(scales))
    return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def restore_rows(
    q: Int8[Tensor, "*rows C"], scales: Float[Tensor, "*rows 1"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*rows C"]:
    r"""The rows that `quantize_rows` stored, but for its rounding.

    Args:
        q: (..., C), int8.
        scales: (..., 1), float.
        dtype: of the result.
    Returns: (..., C), of that dtype.
    Source: Dettmers et al. 2022, LLM.int8(), section 2.
    Lesson: 11.
    """
    return q.float().mul_(scales).to(dtype)  # in place: fresh memory costs more than the arithmetic
