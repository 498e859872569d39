r"""The first tokens and a window of recent ones: what may be thrown away, and who still sees whom."""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from minillm.layers import masks


def evict_with_sinks(
    stored: Shaped[Tensor, "*batch T F"], n_sinks: int, window: int
) -> Shaped[Tensor, "*batch kept F"]:
    r"""Keep the first n_sinks tokens and the last `window` ones, and drop what lies between.

    Two sinks and a window of 3:

        a b c d            nothing to drop yet
        a b c d e f g      a b e f g

    Args:
        stored: tokens in the order of the text, (..., T, F).
        n_sinks: tokens at the beginning that stay for ever, at least 0.
        window: tokens at the end that stay, at least 0.
    Returns: (..., min(T, n_sinks + window), F), in the same order.
    Raises:
        ValueError: if a count is negative.
    Source: Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, section 3.2, figure 4.
    Lesson: 10.
    """
    if n_sinks < 0 or window < 0:
        raise ValueError(f"n_sinks={n_sinks}, window={window}: use counts of at least 0")
    seq_len = stored.shape[-2]
    if seq_len <= n_sinks + window:
        return stored
    return torch.cat([stored[..., :n_sinks, :], stored[..., seq_len - window :, :]], dim=-2)


def sink_mask(
    q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"], n_sinks: int, window: int
) -> Bool[Tensor, "*out Tq Tk"]:
    r"""The same choice as a mask over the whole text: a query sees its window, and the first tokens.

    Args:
        q_positions: position of each query, (..., Tq), int; -1 = padding.
        kv_positions: position of each key, (..., Tk), int; -1 = padding.
        n_sinks: tokens at the beginning that all queries after them see.
        window: recent keys that a query sees, itself included.
    Returns: (..., Tq, Tk) bool, True = may attend.
    Raises:
        ValueError: if window is less than 1.
    Source: Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, section 3.2.
    Lesson: 10.
    """
    first = (kv_positions < n_sinks)[..., None, :] & masks.causal_mask(q_positions, kv_positions)
    return masks.sliding_window_mask(q_positions, kv_positions, window) | first
