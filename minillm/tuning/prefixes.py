r"""Prefix tuning: trained keys and values in every layer, which every token may read."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def prefix_kv(
    k: Float[Tensor, "B Hk T Dh"],
    v: Float[Tensor, "B Hk T Dh"],
    prefix_k: Float[Tensor, "Hk l Dh"],
    prefix_v: Float[Tensor, "Hk l Dh"],
    kv_positions: Int[Tensor, "*b T"],
) -> tuple[Float[Tensor, "B Hk l_T Dh"], Float[Tensor, "B Hk l_T Dh"], Int[Tensor, "*b l_T"]]:
    r"""More keys and values in front of a layer's own, at position 0, where every real query sees them.

    They are joined along the axis of tokens, not added: each query now divides its attention among l + T keys. Nothing
    is rotated, and the tokens keep their positions.

    Args:
        k: the layer's keys, (B, Hk, T, Dh), float.
        v: its values, the same shape.
        prefix_k: keys of the prefix, the same for all texts, (Hk, l, Dh), float.
        prefix_v: values of the prefix.
        kv_positions: positions of the keys, (T,) or (B, T), int; -1 = padding.
    Returns: keys and values, (B, Hk, l + T, Dh), in the dtypes of k and v, and positions, (l + T,) or (B, l + T).
    Source: Li and Liang 2021, Prefix-Tuning, section 4.2; He et al. 2022, Towards a Unified View of Parameter-Efficient
        Transfer Learning, equation 7, for its effect.
    Lesson: 13.
    """
    k, v = (torch.cat([prefix.to(own.dtype).expand(len(own), *prefix.shape), own], dim=2)
            for prefix, own in ((prefix_k, k), (prefix_v, v)))
    first = kv_positions.new_zeros(*kv_positions.shape[:-1], prefix_k.shape[1])
    return k, v, torch.cat([first, kv_positions], dim=-1)
