r"""BatchNorm over the features of (..., D): what training computes, what evaluation computes, and the module."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def batch_norm_train(
    x: Float[Tensor, "*batch D"], weight: Float[Tensor, "D"], bias: Float[Tensor, "D"], eps: float = 1e-5
) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "D"], Float[Tensor, "D"]]:
    r"""Normalize each feature over all samples and positions of this batch.

    The output of a sample depends on who else is in the batch. That is what LayerNorm does away with.

    Args:
        x: (..., D), float; at least two rows in the leading dimensions together.
        weight: (D,).
        bias: (D,).
        eps: added to the (biased) variance, inside the root.
    Returns: the output, (..., D); the batch's mean, (D,); its unbiased variance, (D,), for the running statistics.
    Raises:
        ValueError: if x has fewer than two rows: their variance would be 0 or undefined.
    Source: Ioffe and Szegedy 2015, Batch Normalization, algorithm 1; the unbiased variance: section 3.1.
    Lesson: 05.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < 2:
        raise ValueError(f"x of shape {tuple(x.shape)} has {len(rows)} row(s): batch_norm_train needs at least 2")
    mean, var = rows.mean(dim=0), rows.var(dim=0, unbiased=False)
    out = (x - mean) * torch.rsqrt(var + eps) * weight + bias
    return out, mean, var * len(rows) / (len(rows) - 1)


def batch_norm_eval(
    x: Float[Tensor, "*batch D"],
    running_mean: Float[Tensor, "D"],
    running_var: Float[Tensor, "D"],
    weight: Float[Tensor, "D"],
    bias: Float[Tensor, "D"],
    eps: float = 1e-5,
) -> Float[Tensor, "*batch D"]:
    r"""Normalize each feature by statistics remembered from training: no row sees another.

    With all four vectors fixed this is one multiplication and one addition a feature.

    Args:
        x: (..., D), float.
        running_mean: (D,), remembered mean of each feature.
        running_var: (D,), remembered variance of each feature, >= 0.
        weight: (D,).
        bias: (D,).
        eps: added to running_var, inside the root.
    Returns: (..., D), dtype of x.
    Source: Ioffe and Szegedy 2015, Batch Normalization, algorithm 2, lines 9 to 11.
    Lesson: 05.
    """
    return (x - running_mean) * torch.rsqrt(running_var + eps) * weight + bias


class BatchNorm(nn.Module):
    r"""Batch statistics in training, running ones in evaluation: the same module is two functions.

    Args:
        d_model: D, features.
        eps: inside the root.
        momentum: share of the newest batch in the running statistics, above 0 and at most 1.
    Raises:
        ValueError: if momentum is out of its range.
    Lesson: 05.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum} must be above 0 and at most 1: the share of the newest batch")
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))
        self.eps, self.momentum = eps, momentum

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        if not self.training:
            return batch_norm_eval(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)
        out, mean, var = batch_norm_train(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return out
