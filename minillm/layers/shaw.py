r"""Shaw's relative positions: a trained vector for each distance, added to the keys and to the values."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from minillm.layers import heads, pairwise, projections, recorder, sdpa
from minillm.layers.cache import KVCache


def clipped_distance(
    q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"], max_distance: int
) -> Int64[Tensor, "*out Tq Tk"]:
    r"""Which of 2 * max_distance + 1 vectors belongs to each pair: key's position - query's, clipped, counted from 0.

    Args:
        q_positions: (..., Tq), int.
        kv_positions: (..., Tk), int.
        max_distance: keys further away count as being this far away.
    Returns: (..., Tq, Tk) int64: 0 = max_distance or more before the query, max_distance = at it, ...
    Source: Shaw et al. 2018, Self-Attention with Relative Position Representations, section 3.2.
    Lesson: 04.
    """
    return (-pairwise.broadcast_pairwise(q_positions, kv_positions)).clamp(-max_distance, max_distance) + max_distance


def shaw_attention(
    q: Float[Tensor, "B H Tq Dh"],
    k: Float[Tensor, "B H Tk Dh"],
    v: Float[Tensor, "B H Tk Dh"],
    q_positions: Int[Tensor, "*b Tq"],
    kv_positions: Int[Tensor, "*b Tk"],
    key_vectors: Float[Tensor, "n Dh"],
    value_vectors: Float[Tensor, "n Dh"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H Tq Dh"]:
    r"""Attention in which a key, and a value, also says how far it stands from the query.

    With a = key_vectors[distance] and b = value_vectors[distance], the score is q . (k + a) / sqrt(Dh), and what is
    averaged is v + b. No vector is made for every pair: a query meets each of the n vectors once, and the scores are
    picked from there; likewise the weights are first added up by distance.

    Args:
        q: queries, (B, H, Tq, Dh), float.
        k: keys, (B, H, Tk, Dh), float.
        v: values, (B, H, Tk, Dh), float.
        q_positions: (Tq,) or (B, Tq), int.
        kv_positions: (Tk,) or (B, Tk), int.
        key_vectors: (2 * max_distance + 1, Dh), the same for all heads; row 0 is for keys furthest before the query.
        value_vectors: of the same shape.
        mask: broadcasts to (B, H, Tq, Tk), bool, True = may attend.
    Returns: (B, H, Tq, Dh), dtype of q; zeros for a query that may attend nowhere.
    Source: Shaw et al. 2018, equations 3 and 4, with the clipping of section 3.2.
    Lesson: 04.
    """
    distance = clipped_distance(q_positions, kv_positions, len(key_vectors) // 2)
    distance = (distance if distance.dim() == 2 else distance[:, None]).expand(*q.shape[:-1], k.shape[-2])
    attn_bias = (q @ key_vectors.T).gather(-1, distance) * q.shape[-1] ** -0.5
    weights = sdpa.attention_weights(q, k, mask, attn_bias)
    recorder.report("attn_weights", weights)
    by_distance = torch.zeros(*q.shape[:-1], len(value_vectors), dtype=weights.dtype, device=q.device)
    return weights @ v + by_distance.scatter_add(-1, distance, weights) @ value_vectors


class ShawAttention(nn.Module):
    r"""Self-attention with Shaw's relative positions; otherwise as `Attention`.

    Args:
        d_model: D.
        n_heads: H.
        n_kv_heads: Hk, divides n_heads.
        head_dim: Dh.
        max_distance: keys further away count as being this far away, at least 1.
        mask_rule: (q_positions, kv_positions) -> bool (..., Tq, Tk); None means causal.
        qkv_bias: whether q_proj, k_proj and v_proj have biases.
        o_bias: whether o_proj has one.
    Raises:
        ValueError: if n_kv_heads does not divide n_heads, or max_distance is less than 1.
    Source: Shaw et al. 2018, section 3. The vectors are shared by the heads, as there; each layer has its own.
    Lesson: 04.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        *,
        max_distance: int = 16,
        mask_rule: Callable[[Tensor, Tensor], Tensor] | None = None,
        qkv_bias: bool = False,
        o_bias: bool = False,
    ):
        super().__init__()
        if n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
        if max_distance < 1:
            raise ValueError(f"max_distance={max_distance}: use at least 1")
        self.n_heads, self.n_kv_heads, self.mask_rule = n_heads, n_kv_heads, mask_rule
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=o_bias)
        self.key_vectors = nn.Parameter(torch.randn(2 * max_distance + 1, head_dim) * 0.02)
        self.value_vectors = nn.Parameter(torch.randn(2 * max_distance + 1, head_dim) * 0.02)

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> KVCache:
        r"""An empty cache for this layer.

        Args:
            batch_size: B.
            capacity: tokens a sequence.
            dtype: of the stored keys and values; None means the weights' own.
        Returns: a `KVCache`.
        """
        return projections.layer_cache(self.k_proj, self.n_kv_heads, batch_size, capacity, dtype)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        positions: Int[Tensor, "*b T"],
        angles: Float[Tensor, "..."] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B T D"]:
        r"""Let each token read from the tokens it may see.

        Args:
            x: (B, T, D), float.
            positions: (T,) or (B, T), int; -1 = padding.
            angles: not used; here because every attention is called alike.
            cache: a layer cache, which is appended to; None = no cache.
        Returns: (B, T, D), dtype of x.
        """
        q, k, v, kv_positions = projections.project_qkv(
            x, positions, (self.q_proj, self.k_proj, self.v_proj), self.n_heads, self.n_kv_heads, cache)
        mask = projections.mask_for_heads(self.mask_rule, positions, kv_positions)
        out = shaw_attention(q, k, v, positions, kv_positions, self.key_vectors, self.value_vectors, mask)
        return self.o_proj(heads.merge_heads(out))
