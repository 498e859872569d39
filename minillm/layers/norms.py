r"""LayerNorm and RMSNorm, each a pure function and a thin module."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minillm.layers import fused, paths


def layer_norm(
    x: Float[Tensor, "*batch D"],
    weight: Float[Tensor, "D"],
    bias: Float[Tensor, "D"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*batch D"]:
    r"""Shift and scale each token's features to mean 0 and variance 1, then apply weight and bias.

    Args:
        x: (..., D), float.
        weight: (D,).
        bias: (D,), or None.
        eps: added to the (biased) variance, inside the root.
    Returns: (..., D), dtype of x.
    Source: Ba et al. 2016, Layer Normalization, equations 3 and 4.
    Lesson: 05.
    """
    centred = x - x.mean(dim=-1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    return normal * weight if bias is None else normal * weight + bias


def rms_norm(
    x: Float[Tensor, "*batch D"], weight: Float[Tensor, "D"], eps: float = 1e-6
) -> Float[Tensor, "*batch D"]:
    r"""Scale each token's features to mean square 1, then multiply by weight; nothing is shifted.

    The normalization runs in float32 and is cast to x's dtype before the weight is applied.

    Args:
        x: (..., D), float.
        weight: (D,).
        eps: added to the mean square, inside the root.
    Returns: (..., D), dtype of x.
    Source: Zhang and Sennrich 2019, Root Mean Square Layer Normalization, equation 4; eps is not in the paper.
    Lesson: 05.
    """
    x32 = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return (x32 * torch.rsqrt(x32.square().mean(dim=-1, keepdim=True) + eps)).to(x.dtype) * weight


class LayerNorm(nn.Module):
    r"""`layer_norm` with its weight and bias.

    Args:
        d_model: D, features.
        eps: inside the root.
        bias: whether to have one.
    Lesson: 05.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        function = fused.fused_layer_norm if paths.use_fused() else layer_norm
        return function(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    r"""`rms_norm` with its weight.

    Args:
        d_model: D, features.
        eps: inside the root.
    Lesson: 05.
    """

    def __init__(self, d_model: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        function = fused.fused_rms_norm if paths.use_fused() else rms_norm
        return function(x, self.weight, self.eps)
