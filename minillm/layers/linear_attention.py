r"""Linear attention: with features in place of exp, the sum over the past is a matrix that only grows."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.layers import heads


def positive_features(x: Float[Tensor, "*batch Dh"]) -> Float[Tensor, "*batch Dh"]:
    r"""elu(x) + 1: positive everywhere, x + 1 above zero and exp(x) below.

    Weights made of products of such features are positive, as exp(q . k) is; -inf gives exactly 0.

    Args:
        x: queries or keys, (..., Dh), float.
    Returns: (..., Dh), dtype of x, at least 0.
    Source: Katharopoulos et al. 2020, Transformers are RNNs, equation 7.
    Lesson: 03.
    """
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def linear_attention(
    q: Float[Tensor, "*batch T Dh"], k: Float[Tensor, "*batch T Dh"], v: Float[Tensor, "*batch T Dv"]
) -> Float[Tensor, "*batch T Dv"]:
    r"""Causal attention whose weights are products of features: a weighted average over the past by running sums.

    The weight of key j for query i is features(q_i) . features(k_j), divided by the sum of these over all j <= i.
    Because the product can be taken apart, one (Dh, Dv) sum over the past serves every later query.

    Args:
        q: queries, (..., T, Dh), float.
        k: keys, (..., T, Dh), float; a key of -inf throughout is seen by nobody.
        v: values, (..., T, Dv), float.
    Returns: (..., T, Dv), dtype of q; zeros for a query whose weights are all 0.
    Source: Katharopoulos et al. 2020, Transformers are RNNs, equations 8 to 12.
    Lesson: 03.
    """
    asked, found = positive_features(q), positive_features(k)
    memory = (found[..., :, None] * v[..., None, :]).cumsum(dim=-3)
    total = (asked * found.cumsum(dim=-2)).sum(dim=-1, keepdim=True)
    read = (asked[..., None, :] @ memory).squeeze(-2)
    return read / total.clamp(min=torch.finfo(total.dtype).tiny)


def linear_attention_table(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch Tq Dv"]:
    r"""The same average with all weights written out as a table: O(T^2), and any mask.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend; None = everything.
    Returns: (..., Tq, Dv), dtype of q; zeros for a query that may attend nowhere.
    Source: Katharopoulos et al. 2020, Transformers are RNNs, equations 3 and 4.
    Lesson: 03.
    """
    weights = positive_features(q) @ positive_features(k).transpose(-2, -1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    return weights @ v / total.clamp(min=torch.finfo(total.dtype).tiny)


def memory_write(
    memory: Float[Tensor, "*batch Dh Dv"],
    normalizer: Float[Tensor, "*batch Dh"],
    k: Float[Tensor, "*batch T Dh"],
    v: Float[Tensor, "*batch T Dv"],
    delta: bool = False,
) -> tuple[Float[Tensor, "*batch Dh Dv"], Float[Tensor, "*batch Dh"]]:
    r"""Add keys and values to a matrix memory: the sum of features(k) v^T, and the sum of features(k).

    Args:
        memory: (..., Dh, Dv), zeros at first.
        normalizer: (..., Dh), zeros at first.
        k: keys, (..., T, Dh), float.
        v: values, (..., T, Dv), float.
        delta: write only what the memory does not give for this key already (v minus what is read).
    Returns: the new memory and the new normalizer, shapes as before.
    Source: Katharopoulos et al. 2020, equations 18 and 19; delta: Munkhdalai et al. 2024, Leave No Context Behind,
        equation 5.
    Lesson: 03.
    """
    found = positive_features(k)
    if delta:
        v = v - memory_read(memory, normalizer, k)
    return memory + found.transpose(-2, -1) @ v, normalizer + found.sum(dim=-2)


def memory_read(
    memory: Float[Tensor, "*batch Dh Dv"], normalizer: Float[Tensor, "*batch Dh"], q: Float[Tensor, "*batch T Dh"]
) -> Float[Tensor, "*batch T Dv"]:
    r"""What a matrix memory answers to queries: features(q) M / (features(q) . z).

    Args:
        memory: (..., Dh, Dv).
        normalizer: (..., Dh).
        q: queries, (..., T, Dh), float.
    Returns: (..., T, Dv), dtype of q; zeros from an empty memory.
    Source: Katharopoulos et al. 2020, equation 20; Munkhdalai et al. 2024, equation 3.
    Lesson: 03.
    """
    asked = positive_features(q)
    total = asked @ normalizer[..., None]
    return asked @ memory / total.clamp(min=torch.finfo(total.dtype).tiny)


class LinearAttention(nn.Module):
    r"""Causal self-attention without softmax; its state is one (Dh, Dh) matrix and one vector a head, at any length.

    Args:
        d_model: D.
        n_heads: H.
        head_dim: Dh.
    Source: Katharopoulos et al. 2020, Transformers are RNNs, section 3.
    Lesson: 03.
    """

    def __init__(self, d_model: int, n_heads: int, head_dim: int):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        positions: Int[Tensor, "*b T"],
        angles: Float[Tensor, "*b T half"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B T D"]:
        r"""Let each token read from the past.

        Args:
            x: (B, T, D), float.
            positions: (T,) or (B, T), int; -1 = padding.
            angles: not used: a rotation would make weights negative. Give positions to the model in another way.
            cache: None; this layer has a state, not a list of keys.
        Returns: (B, T, D), dtype of x.
        Raises:
            ValueError: if a cache is given.
        """
        if cache is not None:
            raise ValueError("cache: linear attention keeps no keys; carry memory_write's two sums from step to step")
        q, k, v = (heads.split_heads(proj(x), self.n_heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        padding = (positions < 0).expand(x.shape[:2])
        k = k.masked_fill(padding[:, None, :, None], float("-inf"))
        out = heads.merge_heads(linear_attention(q, k, v))
        return self.o_proj(out.masked_fill(padding[..., None], 0.0))
