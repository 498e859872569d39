r"""Weights and activations in 8 bits: the product itself is made of whole numbers."""

import functools

import torch
from jaxtyping import Float, Int8, Int32
from torch import Tensor

from minillm.inference.quantization import rows

EXACT_TERMS = 1024  # so many products of int8 numbers sum to at most 2**24, up to which float32 is exact
LEAST_COLUMNS = 16  # torch._int_mm of torch 2.13 hands back unwritten memory where there is a single column


def int8_matmul(x_int8: Int8[Tensor, "T C"], q_weight: Int8[Tensor, "R C"]) -> Int32[Tensor, "T R"]:
    r"""x_int8 @ q_weight.T in exact whole numbers.

    A product of two int8 numbers needs 15 bits, a sum over C of them log2(C) more: the sum must be kept in 32.
    Matrix units for int8 do so; torch has no such product for every device. Floats have: float32 is exact for whole
    numbers up to 2^24, enough for 1024 terms, so the columns are taken in pieces and the pieces added as int32.

    Args:
        x_int8: (T, C), int8.
        q_weight: (R, C), int8.
    Returns: (T, R), int32; exact while C is below 2^17, as C * 128 * 128 must fit.
    Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, section 2.4: 8-bit products are accumulated in int32 (theirs are unsigned).
    Lesson: 11.
    """
    total = torch.zeros(len(x_int8), len(q_weight), dtype=torch.int32, device=x_int8.device)
    for piece, weights in zip(x_int8.split(EXACT_TERMS, 1), q_weight.split(EXACT_TERMS, 1), strict=True):
        total += (piece.float() @ weights.float().T).to(torch.int32)
    return total


def int8_matmul_fused(x_int8: Int8[Tensor, "T C"], q_weight: Int8[Tensor, "R C"]) -> Int32[Tensor, "T R"]:
    r"""As `int8_matmul`, by torch's own kernel where it is there and right.

    Args:
        x_int8: (T, C), int8.
        q_weight: (R, C), int8.
    Returns: (T, R), int32.
    Lesson: 11.
    """
    if x_int8.shape[1] >= LEAST_COLUMNS and has_int_mm(x_int8.device.type):
        try:
            return torch._int_mm(x_int8, q_weight.T)
        except RuntimeError:  # sizes that the kernel does not take: GPUs want more than 16 rows and multiples of 8
            pass
    return int8_matmul(x_int8, q_weight)


@functools.cache
def has_int_mm(device_type: str = "cpu") -> bool:
    r"""Whether torch multiplies int8 matrices there, and without saturating.

    Processors without VNNI add pairs of products in 16 bits, and large ones may be cut off; so the probe multiplies
    the largest numbers there are.

    Args:
        device_type: "cpu", "cuda", ...
    Returns: whether `torch._int_mm` can be used.
    Lesson: 11.
    """
    signs = torch.tensor([1, 1, -1, 1], dtype=torch.int8, device=device_type).repeat(32, 16)
    x, weight = 127 * signs, 127 * signs.abs()
    try:
        product = torch._int_mm(x, weight.T)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return product.dtype == torch.int32 and bool((product == 32 * 127 * 127).all())


def w8a8_linear(
    x: Float[Tensor, "*batch C"],
    q_weight: Int8[Tensor, "R C"],
    scales: Float[Tensor, "R 1"],
    bias: Float[Tensor, "R"] | None = None,
    per: str = "token",
) -> Float[Tensor, "*batch R"]:
    r"""A linear layer whose weights and activations are both int8 (W8A8).

    The activations are rounded as they come (dynamically), each token with a scale of its own, or all with one. Both
    scales stand outside of the sum over C: out = sums * x_scale * weight_scale. A scale for each column of x could not
    be taken out of the sum, and that is why columns with outliers are hard.

    Args:
        x: activations, (..., C), float.
        q_weight: (R, C), int8, from `rows.quantize_rows`.
        scales: of its rows, (R, 1).
        bias: (R,), or None.
        per: who shares a scale in x: "token" or "tensor".
    Returns: (..., R), dtype of x.
    Raises:
        ValueError: if `per` is no such choice.
    Source: Xiao et al. 2022, SmoothQuant, section 2 for scales by token and by tensor, section 3, equation 2, for why
        they can only stand along the outer dimensions.
    Lesson: 11.
    """
    if per not in ("token", "tensor"):
        raise ValueError(f'per={per!r}: choose "token" or "tensor"')
    tokens = x.reshape(-1, x.shape[-1])
    shared = tokens if per == "token" else tokens.reshape(1, -1)
    x_int8, x_scales = rows.quantize_rows(shared)
    sums = int8_matmul(x_int8.reshape(tokens.shape), q_weight)
    out = sums.float() * x_scales * scales.float().T
    out = out if bias is None else out + bias
    return out.to(x.dtype).reshape(*x.shape[:-1], len(q_weight))
