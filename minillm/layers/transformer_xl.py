r"""Transformer-XL's relative positions: scores of four terms, made from contents and from a sinusoid of the distance.

Multiply out (content + position of the query) . (content + position of the key), and replace what is absolute:

    q . k        content with content               as always
    q . r        content with distance              "what follows a verb three tokens later?"
    u . k        content of the key alone           a trained vector u in place of the query's position
    w . r        distance alone                     a trained vector w in place of the query's position

where r is a projected sinusoid of the distance. XLNet uses the same four terms.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from minillm.layers import fused, heads, pairwise, paths, projections, recorder, rope, sdpa
from minillm.layers.cache import KVCache


def distance_sinusoids(
    distances: Int[Tensor, "*shape"], d_model: int, base: float = 10000.0
) -> Float[Tensor, "*shape D"]:
    r"""The sinusoid of a distance, which may be negative: `sinusoidal` without its rule for padding.

    Args:
        distances: query's position - key's position, int.
        d_model: D, even.
        base: the wavelengths run from 2 pi to 2 pi * base.
    Returns: (..., D) float32, sines at even features, cosines at odd ones.
    Source: Dai et al. 2019, Transformer-XL, section 3.3 (their R).
    Lesson: 04.
    """
    angles = distances[..., None].float() * rope.rope_inv_freq(d_model, base).to(distances.device)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def xl_position_scores(
    q: Float[Tensor, "B H Tq Dh"],
    r: Float[Tensor, "H n Dh"],
    pick: Int64[Tensor, "*b Tq Tk"],
    position_bias: Float[Tensor, "H Dh"],
) -> Float[Tensor, "B H Tq Tk"]:
    r"""The two terms that know the distance: (q + w) . r, unscaled.

    A query meets each of n distances once, and every pair picks its own from there.

    Args:
        q: queries, (B, H, Tq, Dh), float.
        r: projected sinusoids of n distances, (H, n, Dh).
        pick: which of them belongs to each pair, (Tq, Tk) or (B, Tq, Tk), int64.
        position_bias: w, (H, Dh).
    Returns: (B, H, Tq, Tk), dtype of q.
    Source: Dai et al. 2019, Transformer-XL, section 3.3, terms (b) and (d).
    Lesson: 04.
    """
    every_distance = (q + position_bias[:, None]) @ r.transpose(-2, -1)
    pick = pick if pick.dim() == 2 else pick[:, None]
    return every_distance.gather(-1, pick.expand(*q.shape[:-1], pick.shape[-1]))


def relative_shift(scores: Float[Tensor, "*batch Tq Tk"]) -> Float[Tensor, "*batch Tq Tk"]:
    r"""The published trick: pick each pair's distance without an index, by reading the memory with one more column.

    Comes in with a column for each distance, the furthest (Tk - 1) first and 0 last; goes out with a column for each
    key. Row i is shifted to the left by Tq - 1 - i. What comes in from the right belongs to the future: mask it.

    Args:
        scores: (..., Tq, Tk), column n for distance Tk - 1 - n; queries are the last Tq of Tk positions.
    Returns: (..., Tq, Tk), the same numbers; right where key j stands at or before query i + Tk - Tq.
    Source: Dai et al. 2019, Transformer-XL, appendix B, in the form of their published code.
    Lesson: 04.
    """
    q_len, kv_len = scores.shape[-2:]
    padded = F.pad(scores, (1, 0))  # a column of zeros on the left: each row is now one longer than it will be read
    return padded.flatten(-2)[..., q_len:].unflatten(-1, (q_len, kv_len))


class TransformerXLAttention(nn.Module):
    r"""Self-attention with Transformer-XL's four-term scores; otherwise as `Attention`.

    Args:
        d_model: D, even.
        n_heads: H.
        n_kv_heads: Hk, divides n_heads.
        head_dim: Dh.
        mask_rule: (q_positions, kv_positions) -> bool (..., Tq, Tk); None means causal.
        qkv_bias: whether q_proj, k_proj and v_proj have biases.
        o_bias: whether o_proj has one.
    Raises:
        ValueError: if n_kv_heads does not divide n_heads.
    Source: Dai et al. 2019, Transformer-XL, section 3.3. Their u and v are content_bias and position_bias, one for each
        head and layer; their memory of the last segment is a cache whose gradients are cut.
    Lesson: 04.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        *,
        mask_rule: Callable[[Tensor, Tensor], Tensor] | None = None,
        qkv_bias: bool = False,
        o_bias: bool = False,
    ):
        super().__init__()
        if n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
        self.n_heads, self.n_kv_heads, self.mask_rule = n_heads, n_kv_heads, mask_rule
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=qkv_bias)
        self.r_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=o_bias)
        self.content_bias = nn.Parameter(torch.zeros(n_heads, head_dim))
        self.position_bias = nn.Parameter(torch.zeros(n_heads, head_dim))

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
        scale = q.shape[-1] ** -0.5
        attn_bias = xl_position_scores(q, *self._distances(positions, kv_positions, x), self.position_bias) * scale
        q = q + self.content_bias[:, None]
        if recorder.recording("attn_weights"):
            recorder.report("attn_weights", sdpa.attention_weights(q, k, mask, attn_bias))
        attend = fused.fused_sdpa if paths.use_fused() else sdpa.sdpa
        return self.o_proj(heads.merge_heads(attend(q, k, v, mask, attn_bias)))

    def _distances(self, q_positions: Tensor, kv_positions: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # Every distance from the smallest to the largest once, projected; and which of them each pair has.
        distance = pairwise.broadcast_pairwise(q_positions, kv_positions)
        nearest = int(distance.min())
        every = torch.arange(nearest, int(distance.max()) + 1, device=x.device)
        r = self.r_proj(distance_sinusoids(every, x.shape[-1]).to(x.dtype))
        return heads.split_heads(r[None], self.n_heads)[0], distance - nearest
