r"""Masks made from positions: bool, True = this query may attend to this key.

A position of -1 marks a padding slot: no query sees such a key, and such a query sees nothing. So the same four
functions serve whole sequences, batches padded on either side, and the few new tokens of a cached step.
"""

from jaxtyping import Bool, Int
from torch import Tensor

from minillm.layers import pairwise


def bidirectional_mask(
    q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"]
) -> Bool[Tensor, "*out Tq Tk"]:
    r"""Every real token sees every real token, as in an encoder.

    Args:
        q_positions: position of each query, (..., Tq), int; -1 = padding.
        kv_positions: position of each key, (..., Tk), int; -1 = padding.
    Returns: (..., Tq, Tk) bool, True = may attend.
    Source: Devlin et al. 2018, BERT, section 3.
    Lesson: 02.
    """
    return (q_positions >= 0)[..., :, None] & (kv_positions >= 0)[..., None, :]


def causal_mask(q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"]) -> Bool[Tensor, "*out Tq Tk"]:
    r"""A query sees itself and what came before: key position <= query position.

    Because it compares positions and not indices, it is right for cached steps too, where one query meets many keys.

    Args:
        q_positions: position of each query, (..., Tq), int; -1 = padding.
        kv_positions: position of each key, (..., Tk), int; -1 = padding.
    Returns: (..., Tq, Tk) bool, True = may attend.
    Source: Vaswani et al. 2017, section 3.2.3.
    Lesson: 02.
    """
    distance = pairwise.broadcast_pairwise(q_positions, kv_positions)
    return (distance >= 0) & (kv_positions >= 0)[..., None, :]


def prefix_mask(
    q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"], prefix_len: int
) -> Bool[Tensor, "*out Tq Tk"]:
    r"""The first `prefix_len` positions see each other both ways; everything after is causal.

    Args:
        q_positions: position of each query, (..., Tq), int; -1 = padding.
        kv_positions: position of each key, (..., Tk), int; -1 = padding.
        prefix_len: tokens in the prefix, at least 0.
    Returns: (..., Tq, Tk) bool, True = may attend.
    Raises:
        ValueError: if prefix_len is negative.
    Source: Raffel et al. 2019, T5, section 3.2.1 and figure 3.
    Lesson: 02.
    """
    if prefix_len < 0:
        raise ValueError(f"prefix_len={prefix_len}: use 0 (purely causal) or the number of prefix tokens")
    in_prefix = (kv_positions < prefix_len)[..., None, :]
    return (causal_mask(q_positions, kv_positions) | in_prefix) & bidirectional_mask(q_positions, kv_positions)


def sliding_window_mask(
    q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"], window: int
) -> Bool[Tensor, "*out Tq Tk"]:
    r"""Causal, and no further back than `window` tokens, the query itself included.

    Args:
        q_positions: position of each query, (..., Tq), int; -1 = padding.
        kv_positions: position of each key, (..., Tk), int; -1 = padding.
        window: keys that a query sees, itself included, at least 1.
    Returns: (..., Tq, Tk) bool, True = may attend.
    Raises:
        ValueError: if window is less than 1.
    Source: Beltagy et al. 2020, Longformer, section 3.1 (one-sided here); Jiang et al. 2023, Mistral 7B, section 2.
    Lesson: 03.
    """
    if window < 1:
        raise ValueError(f"window={window}: a query sees at least itself, use 1 or more")
    near = pairwise.broadcast_pairwise(q_positions, kv_positions) < window
    return causal_mask(q_positions, kv_positions) & near


def for_heads(mask: Bool[Tensor, "*any Tq Tk"]) -> Bool[Tensor, "*out Tq Tk"]:
    r"""The same mask for every head.

    Args:
        mask: (Tq, Tk) or (B, Tq, Tk), bool.
    Returns: (Tq, Tk) or (B, 1, Tq, Tk), which broadcast over scores (B, H, Tq, Tk).
    Source: broadcasting.
    Lesson: 02.
    """
    return mask[:, None] if mask.dim() == 3 else mask
