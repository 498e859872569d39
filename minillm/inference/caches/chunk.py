r"""One cached step of one layer, written out as pure functions: append, mask, attend."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minillm.layers import cache, heads, masks, sdpa


def mask_for_chunk(
    n_cached: int,
    n_new: int,
    padding_mask: Bool[Tensor, "B Tk"] | None = None,
    window: int | None = None,
) -> Bool[Tensor, "*b Tq Tk"]:
    r"""Who sees whom when a chunk of new tokens meets the cached ones: rows are the new tokens, columns all of them.

    Three cached tokens and two new ones (x = may attend):

                 cached     new
        new 0    x  x  x    x  .
        new 1    x  x  x    x  x

    Args:
        n_cached: tokens in the cache, at least 0.
        n_new: tokens in the chunk, at least 1.
        padding_mask: (B, n_cached + n_new), bool, True = real token; None = all are real.
        window: keys that a query sees, itself included, counted in real tokens; None = the whole past.
    Returns: (n_new, n_cached + n_new), or (B, n_new, n_cached + n_new) with a padding mask; bool, True = may attend.
    Raises:
        ValueError: if a count is out of range, or padding_mask does not cover cached and new tokens.
    Source: Vaswani et al. 2017, section 3.2.3, for queries that begin in the middle of the text.
    Lesson: 10.
    """
    if n_cached < 0 or n_new < 1:
        raise ValueError(f"n_cached={n_cached}, n_new={n_new}: use at least 0 cached tokens and at least 1 new one")
    positions = torch.arange(n_cached + n_new)
    if padding_mask is not None:
        if padding_mask.shape[1] != len(positions):
            raise ValueError(f"padding_mask {tuple(padding_mask.shape)}: use (B, {len(positions)}), "
                             "it covers cached and new tokens")
        positions = (padding_mask.cumsum(dim=1) - 1).masked_fill(~padding_mask, -1)
    new = positions[..., n_cached:]
    return masks.causal_mask(new, positions) if window is None else masks.sliding_window_mask(new, positions, window)


def attend_chunk(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B Hk T Dh"],
    v: Float[Tensor, "B Hk T Dh"],
    k_cache: Float[Tensor, "B Hk capacity Dh"],
    v_cache: Float[Tensor, "B Hk capacity Dh"],
    length: int,
    padding_mask: Bool[Tensor, "B Tk"] | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""What a layer does with a chunk of new tokens and a contiguous cache.

    The queries of the new tokens alone meet the keys of all tokens so far; nothing is computed twice. Text may be cut
    into chunks anywhere, and the outputs are the same.

    Args:
        q: queries of the new tokens, (B, H, T, Dh), rotated if the model rotates.
        k: their keys, (B, Hk, T, Dh).
        v: their values.
        k_cache: keys so far in the first `length` slots, (B, Hk, capacity, Dh).
        v_cache: values so far.
        length: slots that are taken.
        padding_mask: (B, length + T), bool, True = real token; None = all are real.
        window: as in `mask_for_chunk`.
    Returns: outputs of the new tokens, (B, H, T, Dh), and both caches with the new tokens in them.
    Raises:
        ValueError: if the tokens do not fit.
    Source: Pope et al. 2022, Efficiently Scaling Transformer Inference.
    Lesson: 10.
    """
    end = length + k.shape[2]
    k_cache = cache.cache_append(k_cache, k, length)
    v_cache = cache.cache_append(v_cache, v, length)
    mask = masks.for_heads(mask_for_chunk(length, k.shape[2], padding_mask, window).to(q.device))
    k_seen, v_seen = (heads.repeat_kv(part[:, :, :end], q.shape[1] // k.shape[1]) for part in (k_cache, v_cache))
    return sdpa.sdpa(q, k_seen, v_seen, mask), k_cache, v_cache
