r"""Scaled dot-product attention, written out."""

from jaxtyping import Bool, Float
from torch import Tensor

from minillm.layers import softmax


def attention_weights(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    mask: Bool[Tensor, "..."] | None = None,
    attn_bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch Tq Tk"]:
    r"""How much each query takes from each key: softmax(q k^T * scale + attn_bias) over the keys it may see.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend.
        attn_bias: broadcasts to (..., Tq, Tk), added to the scaled scores.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
    Returns: (..., Tq, Tk), dtype of q; each row sums to 1, or to 0 where the query may attend nowhere.
    Source: Vaswani et al. 2017, section 3.2.1, equation 1.
    Lesson: 02.
    """
    scores = (q @ k.transpose(-2, -1)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if attn_bias is not None:
        scores = scores + attn_bias
    if mask is None:
        return softmax.softmax(scores)
    # A row without a single key is 0/0 in the softmax; zeroing the blocked entries afterwards makes it all zeros.
    return softmax.softmax(scores.masked_fill(~mask, float("-inf"))).masked_fill(~mask, 0.0)


def sdpa(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    mask: Bool[Tensor, "..."] | None = None,
    attn_bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch Tq Dv"]:
    r"""Scaled dot-product attention: each query gets a weighted average of the values.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend.
        attn_bias: broadcasts to (..., Tq, Tk), added to the scaled scores.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
    Returns: (..., Tq, Dv), dtype of q; zeros for a query that may attend nowhere.
    Source: Vaswani et al. 2017, section 3.2.1, equation 1. Their d_k is our head_dim.
    Lesson: 02.
    """
    return attention_weights(q, k, mask, attn_bias, scale) @ v
