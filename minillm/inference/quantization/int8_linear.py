r"""A linear layer over a matrix in 8 bits: multiply first, scale the result."""

import torch
from jaxtyping import Float, Int8
from torch import Tensor


def int8_linear(
    x: Float[Tensor, "*batch C"],
    q_weight: Int8[Tensor, "R C"],
    scales: Float[Tensor, "R 1"],
    bias: Float[Tensor, "R"] | None = None,
) -> Float[Tensor, "*batch R"]:
    r"""x @ (q_weight * scales).T + bias, without ever making the scaled matrix.

    All numbers of a row have one scale, so it can be taken out of the sum over C: R products with a scale in place of
    R * C. Whole numbers up to 127 are exact in bfloat16 and in float16, so the cast loses nothing. The sums are up to
    127 times as large as those of a linear layer: more than float16 holds, so such activations are summed in float32.

    Args:
        x: activations, (..., C), float.
        q_weight: (R, C), int8, from `rows.quantize_rows`.
        scales: of its rows, (R, 1).
        bias: (R,), or None.
    Returns: (..., R), dtype of x.
    Source: Dettmers et al. 2022, LLM.int8(), section 2, equation 3, with activations that stay floats (weight-only).
    Lesson: 11.
    """
    wide = x.float() if x.dtype == torch.float16 else x
    out = (wide @ q_weight.to(wide.dtype).T) * scales.squeeze(-1)
    return (out if bias is None else out + bias).to(x.dtype)
