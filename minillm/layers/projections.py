r"""Queries, keys and values of one attention, with what a cache adds: shared by the attentions of lesson 04."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.layers import heads, masks
from minillm.layers.cache import KVCache

Projection = Callable[[Tensor], Tensor]


def project_qkv(
    x: Float[Tensor, "B T D"],
    positions: Int[Tensor, "*b T"],
    projections: tuple[Projection, Projection, Projection],
    n_heads: int,
    n_kv_heads: int,
    cache: Any = None,
) -> tuple[Float[Tensor, "B H T Dh"], Float[Tensor, "B H Tk Dh"], Float[Tensor, "B H Tk Dh"], Int[Tensor, "*b Tk"]]:
    r"""Project, split into heads, append to the cache, and give each query head its key/value head.

    Args:
        x: (B, T, D), float.
        positions: (T,) or (B, T), int; -1 = padding.
        projections: q_proj, k_proj and v_proj.
        n_heads: H.
        n_kv_heads: Hk, divides n_heads.
        cache: a layer cache, which is appended to; None = no cache.
    Returns: q (B, H, T, Dh), k and v (B, H, Tk, Dh), and the positions of the keys.
    Source: Vaswani et al. 2017, section 3.2.2; Ainslie et al. 2023 (GQA), section 2.2.
    Lesson: 04.
    """
    q, k, v = (
        heads.split_heads(project(x), n)
        for project, n in zip(projections, (n_heads, n_kv_heads, n_kv_heads), strict=True)
    )
    kv_positions = positions
    if cache is not None:
        k, v, kv_positions = cache.append(k, v, positions)
    if n_kv_heads != n_heads:
        k, v = (heads.repeat_kv(part, n_heads // n_kv_heads) for part in (k, v))
    return q, k, v, kv_positions


def layer_cache(
    k_proj: nn.Linear, n_kv_heads: int, batch_size: int, capacity: int, dtype: torch.dtype | None = None
) -> KVCache:
    r"""An empty cache for the keys of this projection.

    Args:
        k_proj: D -> n_kv_heads * Dh.
        n_kv_heads: Hk.
        batch_size: B.
        capacity: tokens a sequence.
        dtype: of the stored keys and values; None means the projection's own.
    Returns: a `KVCache`.
    Source: Pope et al. 2022, Efficiently Scaling Transformer Inference, section 2.1.
    Lesson: 10.
    """
    weight = k_proj.weight
    return KVCache(
        batch_size, n_kv_heads, capacity, weight.shape[0] // n_kv_heads, dtype or weight.dtype, weight.device)


def mask_for_heads(
    rule: Callable[[Tensor, Tensor], Tensor] | None,
    q_positions: Int[Tensor, "*bq Tq"],
    kv_positions: Int[Tensor, "*bk Tk"],
) -> Bool[Tensor, "*out Tq Tk"]:
    r"""A rule's mask, the same for every head.

    Args:
        rule: (q_positions, kv_positions) -> bool (..., Tq, Tk); None means causal.
        q_positions: (Tq,) or (B, Tq), int.
        kv_positions: (Tk,) or (B, Tk), int.
    Returns: (Tq, Tk) or (B, 1, Tq, Tk) bool, True = may attend.
    Source: as `masks`.
    Lesson: 04.
    """
    mask = (rule or masks.causal_mask)(q_positions, kv_positions)
    return mask[:, None] if mask.dim() == 3 else mask
