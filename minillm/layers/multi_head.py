r"""Multi-head attention as two pure functions of the weights: within a sequence, and from one to another."""

from jaxtyping import Bool, Float
from torch import Tensor

from minillm.layers import heads, sdpa


def multi_head_attention(
    x: Float[Tensor, "B T D"],
    w_q: Float[Tensor, "HDh D"],
    w_k: Float[Tensor, "HDh D"],
    w_v: Float[Tensor, "HDh D"],
    w_o: Float[Tensor, "D HDh"],
    n_heads: int,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B T D"]:
    r"""Several attentions side by side on slices of the width, joined and mixed by w_o.

    Args:
        x: (B, T, D), float.
        w_q: (H * Dh, D), as in nn.Linear: applied as x @ w_q.T.
        w_k: (H * Dh, D).
        w_v: (H * Dh, D).
        w_o: (D, H * Dh).
        n_heads: H.
        mask: broadcasts to (B, H, T, T), bool, True = may attend.
    Returns: (B, T, D), dtype of x.
    Source: Vaswani et al. 2017, section 3.2.2.
    Lesson: 02.
    """
    q, k, v = (heads.split_heads(x @ w.T, n_heads) for w in (w_q, w_k, w_v))
    return heads.merge_heads(sdpa.sdpa(q, k, v, mask)) @ w_o.T


def cross_attention(
    x: Float[Tensor, "B Tq D"],
    memory: Float[Tensor, "B Tk Dm"],
    w_q: Float[Tensor, "HDh D"],
    w_k: Float[Tensor, "HDh Dm"],
    w_v: Float[Tensor, "HDh Dm"],
    w_o: Float[Tensor, "D HDh"],
    n_heads: int,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B Tq D"]:
    r"""Queries come from x; keys and values come from memory, an encoder's output, say.

    With memory = x it is `multi_head_attention`.

    Args:
        x: the tokens that ask, (B, Tq, D), float.
        memory: the tokens that are read, (B, Tk, Dm), float.
        w_q: (H * Dh, D), as in nn.Linear: applied as x @ w_q.T.
        w_k: (H * Dh, Dm).
        w_v: (H * Dh, Dm).
        w_o: (D, H * Dh).
        n_heads: H.
        mask: broadcasts to (B, H, Tq, Tk), bool, True = may attend.
    Returns: (B, Tq, D), dtype of x.
    Source: Vaswani et al. 2017, sections 3.2.2 and 3.2.3.
    Lesson: 02.
    """
    q = heads.split_heads(x @ w_q.T, n_heads)
    k = heads.split_heads(memory @ w_k.T, n_heads)
    v = heads.split_heads(memory @ w_v.T, n_heads)
    return heads.merge_heads(sdpa.sdpa(q, k, v, mask)) @ w_o.T
