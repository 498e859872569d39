r"""Attention as a module: one class for multi-head, grouped-query and multi-query attention."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.layers import heads, masks, rope
from minillm.layers.cache import KVCache
from minillm.layers.reading import read_and_report

Rule = Callable[[Tensor, Tensor], Tensor]


class Attention(nn.Module):
    r"""Self-attention with H query heads that share Hk key/value heads.

    Hk = H is multi-head, Hk = 1 multi-query, anything between grouped-query attention. What a query may see and what
    is added to its scores are rules on positions, handed in: the class knows neither windows nor ALiBi.

    Args:
        d_model: D.
        n_heads: H.
        n_kv_heads: Hk, divides n_heads.
        head_dim: Dh.
        mask_rule: (q_positions, kv_positions) -> bool (..., Tq, Tk); None means causal.
        bias_rule: (q_positions, kv_positions) -> float (..., H, Tq, Tk), added to the scores; None means nothing.
        qkv_bias: whether q_proj, k_proj and v_proj have biases.
        o_bias: whether o_proj has one.
        q_norm: a norm on the Dh features of each head's query, before the rotation; None = none.
        k_norm: the same for keys.
        scale: factor on the scores; None = 1 / sqrt(Dh).
        rope_amplitude: factor on the features that RoPE turns.
        reading: another way for queries to read, called as reading(q, k, v, positions, kv_positions, mask) with as
            many key/value heads as query heads; None = scaled dot products.
    Raises:
        ValueError: if n_kv_heads does not divide n_heads.
    Source: Vaswani et al. 2017, section 3.2; Ainslie et al. 2023 (GQA), section 2.2; norms on queries and keys:
        Henry et al. 2020, Query-Key Normalization for Transformers (here with a trained norm in place of theirs).
    Lesson: 02.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        *,
        mask_rule: Rule | None = None,
        bias_rule: Rule | None = None,
        qkv_bias: bool = False,
        o_bias: bool = False,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        scale: float | None = None,
        rope_amplitude: float = 1.0,
        reading: nn.Module | None = None,
    ):
        super().__init__()
        if n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=o_bias)
        self.q_norm, self.k_norm = q_norm, k_norm
        self.mask_rule, self.bias_rule = mask_rule, bias_rule
        self.scale, self.rope_amplitude = scale, rope_amplitude
        self.reading = reading

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> KVCache:
        r"""An empty cache for this layer.

        Args:
            batch_size: B.
            capacity: tokens a sequence.
            dtype: of the stored keys and values; None means the weights' own.
        Returns: a `KVCache`.
        """
        weight = self.k_proj.weight
        head_dim = weight.shape[0] // self.n_kv_heads
        return KVCache(batch_size, self.n_kv_heads, capacity, head_dim, dtype or weight.dtype, weight.device)

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
            angles: RoPE's, (T, half) or (B, T, half), for 2 * half of the Dh features; None = no rotation.
            cache: a layer cache, which is appended to; None = no cache.
        Returns: (B, T, D), dtype of x.
        """
        q = heads.split_heads(self.q_proj(x), self.n_heads)
        k = heads.split_heads(self.k_proj(x), self.n_kv_heads)
        v = heads.split_heads(self.v_proj(x), self.n_kv_heads)
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        if angles is not None:
            q, k = (rope.turn_heads(part, angles, self.rope_amplitude) for part in (q, k))
        kv_positions = positions
        if cache is not None:
            k, v, kv_positions = cache.append(k, v, positions)
        if self.n_kv_heads != self.n_heads:
            n_repeats = self.n_heads // self.n_kv_heads
            k, v = heads.repeat_kv(k, n_repeats), heads.repeat_kv(v, n_repeats)
        mask = masks.for_heads((self.mask_rule or masks.causal_mask)(positions, kv_positions))
        if self.reading is not None:
            return self.o_proj(heads.merge_heads(self.reading(q, k, v, positions, kv_positions, mask)))
        attn_bias = None if self.bias_rule is None else self.bias_rule(positions, kv_positions).to(q.dtype)
        return self.o_proj(heads.merge_heads(read_and_report(q, k, v, mask, attn_bias, self.scale)))
