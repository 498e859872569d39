r"""Multi-head latent attention: keys and values of all heads are read out of one short latent a token."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.layers import heads, masks, recorder, rope, sdpa
from minillm.layers.attention import Rule
from minillm.layers.latent_cache import LatentCache
from minillm.layers.norms import RMSNorm


def mla_naive(
    q: Float[Tensor, "B H Tq Dh"],
    q_rope: Float[Tensor, "B H Tq Dr"],
    latent: Float[Tensor, "B Tk R"],
    k_rope: Float[Tensor, "B Tk Dr"],
    w_uk: Float[Tensor, "H Dh R"],
    w_uv: Float[Tensor, "H Dv R"],
    mask: Bool[Tensor, "..."] | None = None,
    attn_bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H Tq Dv"]:
    r"""Attention in a latent space, the long way: make every head's keys and values, then attend as usual.

    A key has two parts. The first is the latent, brought up by the head's own matrix; it knows no position. The second
    carries the rotation and is one vector for all heads. A score is the sum of both parts' dot products.

    Args:
        q: unrotated part of the queries, (B, H, Tq, Dh), float.
        q_rope: rotated part of the queries, (B, H, Tq, Dr).
        latent: what is remembered of each token, (B, Tk, R).
        k_rope: rotated part of the keys, shared by the heads, (B, Tk, Dr).
        w_uk: from latents to each head's keys, (H, Dh, R), as in nn.Linear.
        w_uv: from latents to each head's values, (H, Dv, R).
        mask: broadcasts to (B, H, Tq, Tk), bool, True = may attend.
        attn_bias: broadcasts to (B, H, Tq, Tk), added to the scaled scores.
        scale: factor on the scores; None means 1 / sqrt(Dh + Dr).
    Returns: (B, H, Tq, Dv), dtype of q.
    Source: DeepSeek-AI 2024, DeepSeek-V2, section 2.1.2, equations 9 to 11, and 2.1.3, equations 14 to 18. Their c^KV
        is our latent, their d_c our R, their d_h^R our Dr.
    Lesson: 03.
    """
    k = torch.einsum("btr,hdr->bhtd", latent, w_uk)
    v = torch.einsum("btr,hdr->bhtd", latent, w_uv)
    shared = k_rope[:, None].expand(-1, q.shape[1], -1, -1)
    return sdpa.sdpa(torch.cat([q, q_rope], dim=-1), torch.cat([k, shared], dim=-1), v, mask, attn_bias, scale)


def mla_absorb(
    q: Float[Tensor, "B H Tq Dh"],
    q_rope: Float[Tensor, "B H Tq Dr"],
    latent: Float[Tensor, "B Tk R"],
    k_rope: Float[Tensor, "B Tk Dr"],
    w_uk: Float[Tensor, "H Dh R"],
    w_uv: Float[Tensor, "H Dv R"],
    mask: Bool[Tensor, "..."] | None = None,
    attn_bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H Tq Dv"]:
    r"""The same attention without making any head's keys or values: the queries come down to the latents instead.

    q . (W c) = (W^T q) . c, and a weighted sum of W c is W times the weighted sum of c. So the latents serve as keys
    and as values, one head of them for all query heads, as in multi-query attention.

    Args:
        q: unrotated part of the queries, (B, H, Tq, Dh), float.
        q_rope: rotated part of the queries, (B, H, Tq, Dr).
        latent: what is remembered of each token, (B, Tk, R).
        k_rope: rotated part of the keys, shared by the heads, (B, Tk, Dr).
        w_uk: from latents to each head's keys, (H, Dh, R), as in nn.Linear.
        w_uv: from latents to each head's values, (H, Dv, R).
        mask: broadcasts to (B, H, Tq, Tk), bool, True = may attend.
        attn_bias: broadcasts to (B, H, Tq, Tk), added to the scaled scores.
        scale: factor on the scores; None means 1 / sqrt(Dh + Dr).
    Returns: (B, H, Tq, Dv), dtype of q; equal to `mla_naive` but for rounding.
    Source: DeepSeek-AI 2024, DeepSeek-V2, section 2.1.2, the remark below equation 11; written out in appendix C.
    Lesson: 03.
    """
    scale = (q.shape[-1] + q_rope.shape[-1]) ** -0.5 if scale is None else scale
    asked, found = _absorbed(q, q_rope, latent, k_rope, w_uk)
    read = sdpa.sdpa(asked, found, latent[:, None].expand(-1, q.shape[1], -1, -1), mask, attn_bias, scale)
    return torch.einsum("bhtr,hdr->bhtd", read, w_uv)


def _absorbed(q: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, w_uk: Tensor) -> tuple[Tensor, Tensor]:
    asked = torch.cat([torch.einsum("bhtd,hdr->bhtr", q, w_uk), q_rope], dim=-1)
    found = torch.cat([latent, k_rope], dim=-1)[:, None]
    return asked, found.expand(-1, q.shape[1], -1, -1)


class MultiHeadLatentAttention(nn.Module):
    r"""Self-attention whose cache holds one latent and one rotated key a token.

    Without a cache it takes the naive form, which multiplies less when all tokens come at once; with one, the absorbed
    form, which never unfolds what is cached.

    Args:
        d_model: D.
        n_heads: H.
        head_dim: Dh, width of the unrotated part of queries and keys.
        rope_dim: Dr, width of the rotated part, even.
        v_dim: Dv, width of a head's values.
        kv_rank: R, width of the latent.
        q_rank: queries too go through a latent of this width; None means one plain q_proj.
        scale: factor on the scores; None means 1 / sqrt(Dh + Dr).
        rope_amplitude: factor on the rotated parts.
        eps: of the norms on the latents.
        mask_rule: (q_positions, kv_positions) -> bool (..., Tq, Tk); None means causal.
        bias_rule: (q_positions, kv_positions) -> float (..., H, Tq, Tk), added to the scores; None means nothing.
    Raises:
        ValueError: if rope_dim is odd.
    Source: DeepSeek-AI 2024, DeepSeek-V2, section 2.1 and appendix C; the norms on both latents are in section 3.1.2.
        RoPE here has the `half` layout; the published code pairs neighbouring features.
    Lesson: 03.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int,
        rope_dim: int,
        v_dim: int,
        kv_rank: int,
        q_rank: int | None = None,
        *,
        scale: float | None = None,
        rope_amplitude: float = 1.0,
        eps: float = 1e-6,
        mask_rule: Rule | None = None,
        bias_rule: Rule | None = None,
    ):
        super().__init__()
        if rope_dim % 2:
            raise ValueError(f"rope_dim={rope_dim}: RoPE turns pairs of features, use an even number")
        self.n_heads, self.head_dim, self.rope_dim, self.v_dim = n_heads, head_dim, rope_dim, v_dim
        self.kv_rank, self.q_rank = kv_rank, q_rank
        self.scale, self.rope_amplitude = scale, rope_amplitude
        if q_rank is None:
            self.q_proj = nn.Linear(d_model, n_heads * (head_dim + rope_dim), bias=False)
        else:
            self.q_down = nn.Linear(d_model, q_rank, bias=False)
            self.q_norm = RMSNorm(q_rank, eps)
            self.q_up = nn.Linear(q_rank, n_heads * (head_dim + rope_dim), bias=False)
        self.kv_down = nn.Linear(d_model, kv_rank + rope_dim, bias=False)
        self.kv_norm = RMSNorm(kv_rank, eps)
        self.kv_up = nn.Linear(kv_rank, n_heads * (head_dim + v_dim), bias=False)
        self.o_proj = nn.Linear(n_heads * v_dim, d_model, bias=False)
        self.mask_rule, self.bias_rule = mask_rule, bias_rule

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> LatentCache:
        r"""An empty cache for this layer.

        Args:
            batch_size: B.
            capacity: tokens a sequence.
            dtype: of what is stored; None means the weights' own.
        Returns: a `LatentCache`.
        """
        weight = self.kv_down.weight
        return LatentCache(batch_size, capacity, self.kv_rank, self.rope_dim, dtype or weight.dtype, weight.device)

    def up_matrices(self) -> tuple[Float[Tensor, "H Dh R"], Float[Tensor, "H Dv R"]]:
        r"""The parts of kv_up that make keys and values, a block of rows for each head."""
        per_head = self.kv_up.weight.unflatten(0, (self.n_heads, self.head_dim + self.v_dim))
        w_uk, w_uv = per_head.split([self.head_dim, self.v_dim], dim=1)
        return w_uk, w_uv

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        positions: Int[Tensor, "*b T"],
        angles: Float[Tensor, "*b T half"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B T D"]:
        r"""Let each token read from the tokens it may see.

        Args:
            x: (B, T, D), float.
            positions: (T,) or (B, T), int; -1 = padding.
            angles: RoPE's, (T, Dr / 2) or (B, T, Dr / 2); None = no rotation.
            cache: a `LatentCache`, which is appended to; None = no cache.
        Returns: (B, T, D), dtype of x.
        """
        q_wide = self.q_proj(x) if self.q_rank is None else self.q_up(self.q_norm(self.q_down(x)))
        q, q_rope = heads.split_heads(q_wide, self.n_heads).split([self.head_dim, self.rope_dim], dim=-1)
        latent, k_rope = self.kv_down(x).split([self.kv_rank, self.rope_dim], dim=-1)
        latent = self.kv_norm(latent)
        if angles is not None:
            q_rope = rope.turn_heads(q_rope, angles, self.rope_amplitude)
            k_rope = rope.turn_heads(k_rope[:, None], angles, self.rope_amplitude)[:, 0]
        kv_positions = positions
        if cache is not None:
            latent, k_rope, kv_positions = cache.append(latent, k_rope, positions)
        mask = masks.for_heads((self.mask_rule or masks.causal_mask)(positions, kv_positions))
        attn_bias = None if self.bias_rule is None else self.bias_rule(positions, kv_positions)
        w_uk, w_uv = self.up_matrices()
        if recorder.recording("attn_weights"):
            scale = (self.head_dim + self.rope_dim) ** -0.5 if self.scale is None else self.scale
            asked, found = _absorbed(q, q_rope, latent, k_rope, w_uk)
            recorder.report("attn_weights", sdpa.attention_weights(asked, found, mask, attn_bias, scale))
        attend = mla_naive if cache is None else mla_absorb
        out = attend(q, q_rope, latent, k_rope, w_uk, w_uv, mask, attn_bias, self.scale)
        return self.o_proj(heads.merge_heads(out))
