r"""Shaw's relative positions: a trained vector for each distance, added to the keys and to the values."""

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from minillm.layers import pairwise, recorder, sdpa


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


class ShawReading(nn.Module):
    r"""Shaw's way to read, for `Attention`: its trained vectors, one for each distance.

    Args:
        head_dim: Dh.
        max_distance: keys further away count as being this far away, at least 1.
    Raises:
        ValueError: if max_distance is less than 1.
    Source: Shaw et al. 2018, section 3. The vectors are shared by the heads, as there; each layer has its own.
    Lesson: 04.
    """

    def __init__(self, head_dim: int, max_distance: int = 16):
        super().__init__()
        if max_distance < 1:
            raise ValueError(f"max_distance={max_distance}: use at least 1")
        self.key_vectors = nn.Parameter(torch.randn(2 * max_distance + 1, head_dim) * 0.02)
        self.value_vectors = nn.Parameter(torch.randn(2 * max_distance + 1, head_dim) * 0.02)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, kv_positions: Tensor, mask: Tensor
    ) -> Tensor:
        return shaw_attention(q, k, v, positions, kv_positions, self.key_vectors, self.value_vectors, mask)
