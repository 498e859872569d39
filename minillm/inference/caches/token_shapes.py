r"""What a layer of attention keeps of one token."""

from typing import Any

import torch
from torch import Tensor

from minillm.layers.attention import Attention
from minillm.layers.mla import MultiHeadLatentAttention

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def token_shapes(attn: Any) -> Shapes:
    r"""The shapes of the two parts that one token leaves in a layer's cache.

    Attention with heads leaves a key and a value for each key/value head. Latent attention leaves a latent and one
    rotated key, without heads. In both the tokens of a sequence stand on the axis before the last, so that a cache
    which works on that axis serves both.

    Args:
        attn: the attention module of a block.
    Returns: ((Hk, Dh), (Hk, Dh)), or ((R,), (Dr,)) for latent attention.
    Raises:
        TypeError: if the module is neither.
    Source: DeepSeek-AI 2024, DeepSeek-V2, figure 3.
    Lesson: 10.
    """
    if isinstance(attn, MultiHeadLatentAttention):
        return (attn.kv_rank,), (attn.rope_dim,)
    if not isinstance(attn, Attention):
        raise TypeError(f"attn is {type(attn).__name__}: use Attention or MultiHeadLatentAttention, which have caches")
    head = (attn.n_kv_heads, attn.k_proj.weight.shape[0] // attn.n_kv_heads)
    return head, head


def stored_like(model: Any, dtype: torch.dtype | None = None) -> dict[str, Any]:
    r"""Type and device for what a model's caches store.

    Args:
        model: with blocks.
        dtype: None means the model's own.
    Returns: {"dtype": ..., "device": ...}.
    Lesson: 10.
    """
    weight = next(model.blocks.parameters())
    return dict(dtype=dtype or weight.dtype, device=weight.device)


def require_parts(shapes: Shapes, batch_size: int, k: Tensor, v: Tensor) -> None:
    r"""Refuse tokens that are not of the shape that a cache stores.

    Args:
        shapes: from `token_shapes`.
        batch_size: rows of the cache.
        k: the first part of the new tokens.
        v: the second.
    Raises:
        ValueError: naming the part and the shape that fits.
    Lesson: 10.
    """
    for name, part, shape in (("k", k, shapes[0]), ("v", v, shapes[1])):
        want = (batch_size, *shape[:-1], k.shape[-2], shape[-1])
        if tuple(part.shape) != want:
            raise ValueError(f"{name} {tuple(part.shape)}: this cache takes {want}, tokens on the axis before the last")
