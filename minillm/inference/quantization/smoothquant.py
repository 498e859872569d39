r"""SmoothQuant: hand the outliers of the activations over to the weights, where they do less harm."""

import torch
from jaxtyping import Float
from torch import Tensor


def smooth_factors(
    x: Float[Tensor, "T C"], weight: Float[Tensor, "R C"], alpha: float = 0.5
) -> Float[Tensor, "C"]:
    r"""By how much each feature is to be divided in x and multiplied in the weights.

    max|x_j|^alpha / max|w_j|^(1 - alpha): with alpha = 0.5 both sides come to the same largest value; 1 moves all of
    the difficulty to the weights.

    Args:
        x: activations of a sample text, (T, C), float.
        weight: (R, C), float.
        alpha: the migration strength, 0 to 1.
    Returns: (C,), float32; 1 for a feature that is 0 throughout in x or in the weights.
    Raises:
        ValueError: if alpha is not between 0 and 1.
    Source: Xiao et al. 2022, SmoothQuant, section 4, equation 4.
    Lesson: 11.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: choose a number from 0 to 1")
    x_reach, weight_reach = (part.float().abs().amax(dim=0) for part in (x, weight))
    factors = x_reach**alpha / weight_reach ** (1 - alpha)
    return factors.where((x_reach > 0) & (weight_reach > 0), torch.ones_like(factors))


def smooth(
    x: Float[Tensor, "*batch C"], weight: Float[Tensor, "R C"], factors: Float[Tensor, "C"]
) -> tuple[Float[Tensor, "*batch C"], Float[Tensor, "R C"]]:
    r"""The same product with smoother activations: (x / factors) @ (weight * factors).T.

    Args:
        x: activations, (..., C), float.
        weight: (R, C), float.
        factors: (C,), above 0.
    Returns: x / factors and weight * factors, in their dtypes.
    Source: Xiao et al. 2022, SmoothQuant, section 4, equation 3.
    Lesson: 11.
    """
    return (x / factors).to(x.dtype), (weight * factors).to(weight.dtype)


def fold_into_norm(norm_weight: Float[Tensor, "C"], factors: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
    r"""Let the norm in front of the layer divide its features, so that nothing is left to do when the model runs.

    Args:
        norm_weight: of the norm whose output the layer (or several of them) reads, (C,).
        factors: (C,).
    Returns: the norm's new weight, (C,), dtype of the old one; its bias, if it has one, is divided in the same way.
    Source: Xiao et al. 2022, SmoothQuant, section 4: the factors are fused into the layer before, offline.
    Lesson: 11.
    """
    return (norm_weight / factors).to(norm_weight.dtype)
