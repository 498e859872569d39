r"""GroupNorm of one token: each group of features, such as a head, is normalized by itself."""

import torch
from jaxtyping import Float
from torch import Tensor


def group_norm(
    x: Float[Tensor, "*batch D"],
    n_groups: int,
    weight: Float[Tensor, "D"],
    bias: Float[Tensor, "D"],
    eps: float = 1e-5,
) -> Float[Tensor, "*batch D"]:
    r"""LayerNorm within each of n_groups equal runs of neighbouring features, for every token alone.

    RWKV and RetNet treat what their heads put out so: n_groups is the number of heads. torch's GroupNorm on (B, D, T)
    is another function: it takes its statistics over time as well, and in a causal model lets the future through.

    Args:
        x: (..., D), float.
        n_groups: divides D; 1 is LayerNorm.
        weight: (D,).
        bias: (D,).
        eps: added to the (biased) variance, inside the root.
    Returns: (..., D), dtype of x.
    Raises:
        ValueError: if n_groups does not divide D.
    Source: Wu and He 2018, Group Normalization, equations 1, 2 and 7, over the features of one token only;
        Sun et al. 2023 (RetNet), equation 8.
    Lesson: 05.
    """
    if n_groups < 1 or x.shape[-1] % n_groups:
        raise ValueError(f"n_groups={n_groups} must divide the {x.shape[-1]} features of x")
    groups = x.unflatten(-1, (n_groups, -1))
    centred = groups - groups.mean(dim=-1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    return normal.flatten(-2) * weight + bias
