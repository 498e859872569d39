r"""Infini-attention: softmax within a segment, and a matrix memory of fixed size for all segments before it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.layers import heads, linear_attention, masks, rope, sdpa


def infini_attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B H T Dh"],
    v: Float[Tensor, "B H T Dv"],
    gate: Float[Tensor, "H"],
    segment_len: int,
    delta: bool = False,
) -> Float[Tensor, "B H T Dv"]:
    r"""Segment by segment: read the memory, attend within the segment, blend, then write the segment to the memory.

    Args:
        q: queries, (B, H, T, Dh), float.
        k: keys, (B, H, T, Dh).
        v: values, (B, H, T, Dv).
        gate: of each head, (H,); sigmoid(gate) is the share of what the memory says.
        segment_len: tokens a segment, at least 1; the last may be shorter.
        delta: write by the delta rule, see `memory_write`.
    Returns: (B, H, T, Dv), dtype of q.
    Raises:
        ValueError: if segment_len is less than 1.
    Source: Munkhdalai et al. 2024, Leave No Context Behind, section 2.1, equations 3 to 6. Their beta is our gate.
    Lesson: 03.
    """
    _require_segments(segment_len)
    share = gate.sigmoid()[:, None, None]
    memory = q.new_zeros((*q.shape[:2], q.shape[-1], v.shape[-1]))
    normalizer = q.new_zeros((*q.shape[:2], q.shape[-1]))
    outputs = []
    for q_part, k_part, v_part in zip(*(x.split(segment_len, dim=2) for x in (q, k, v)), strict=True):
        remembered = linear_attention.memory_read(memory, normalizer, q_part)
        steps = torch.arange(q_part.shape[2], device=q.device)
        local = sdpa.sdpa(q_part, k_part, v_part, masks.causal_mask(steps, steps))
        outputs.append(share * remembered + (1 - share) * local)
        memory, normalizer = linear_attention.memory_write(memory, normalizer, k_part, v_part, delta)
    return torch.cat(outputs, dim=2)


def infini_masked(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B H T Dh"],
    v: Float[Tensor, "B H T Dv"],
    gate: Float[Tensor, "H"],
    segment_len: int,
    positions: Int[Tensor, "*b T"] | None = None,
    q_local: Float[Tensor, "B H T Dh"] | None = None,
    k_local: Float[Tensor, "B H T Dh"] | None = None,
) -> Float[Tensor, "B H T Dv"]:
    r"""The same (without the delta rule) by two masks: softmax within a segment, linear attention over earlier ones.

    Args:
        q: queries, (B, H, T, Dh), float.
        k: keys, (B, H, T, Dh).
        v: values, (B, H, T, Dv).
        gate: of each head, (H,).
        segment_len: tokens a segment, at least 1.
        positions: (T,) or (B, T), int; -1 = padding; None = 0, 1, 2, ...
        q_local: queries for the softmax part, rotated, say; None means q.
        k_local: keys for the softmax part; None means k.
    Returns: (B, H, T, Dv), dtype of q; zeros for padding.
    Raises:
        ValueError: if segment_len is less than 1.
    Source: Munkhdalai et al. 2024, Leave No Context Behind, section 2.1. The masks are ours.
    Lesson: 03.
    """
    _require_segments(segment_len)
    positions = torch.arange(q.shape[2], device=q.device) if positions is None else positions
    seen = masks.causal_mask(positions, positions)
    segments = positions.clamp(min=0) // segment_len
    same = segments[..., :, None] == segments[..., None, :]
    local_mask, memory_mask = seen & same, seen & ~same
    if seen.dim() == 3:
        local_mask, memory_mask = local_mask[:, None], memory_mask[:, None]
    share = gate.sigmoid()[:, None, None]
    local = sdpa.sdpa(q if q_local is None else q_local, k if k_local is None else k_local, v, local_mask)
    remembered = linear_attention.linear_attention_table(q, k, v, memory_mask)
    return share * remembered + (1 - share) * local


def _require_segments(segment_len: int) -> None:
    if segment_len < 1:
        raise ValueError(f"segment_len={segment_len}: use at least 1 token a segment")


class InfiniAttention(nn.Module):
    r"""Self-attention with a local softmax and a compressive memory, blended by one trained gate a head.

    RoPE turns only what the softmax sees; the memory's features know no position.

    Args:
        d_model: D.
        n_heads: H.
        head_dim: Dh.
        segment_len: tokens a segment.
    Source: Munkhdalai et al. 2024, Leave No Context Behind, section 2.1. Trained here by the masked form.
    Lesson: 03.
    """

    def __init__(self, d_model: int, n_heads: int, head_dim: int, segment_len: int):
        super().__init__()
        _require_segments(segment_len)
        self.n_heads, self.segment_len = n_heads, segment_len
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=False)
        self.gate = nn.Parameter(torch.zeros(n_heads))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        positions: Int[Tensor, "*b T"],
        angles: Float[Tensor, "*b T half"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B T D"]:
        r"""Let each token read from its segment and from the memory of earlier ones.

        Args:
            x: (B, T, D), float.
            positions: (T,) or (B, T), int; -1 = padding.
            angles: RoPE's, (T, Dh / 2) or (B, T, Dh / 2); None = no rotation.
            cache: None; this layer has a state and one segment of keys.
        Returns: (B, T, D), dtype of x.
        Raises:
            ValueError: if a cache is given.
        """
        if cache is not None:
            raise ValueError("cache: Infini-attention keeps no list of all keys; carry memory_write's two sums")
        q, k, v = (heads.split_heads(proj(x), self.n_heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        turned = (None, None) if angles is None else (rope.turn_heads(q, angles), rope.turn_heads(k, angles))
        out = infini_masked(q, k, v, self.gate, self.segment_len, positions, *turned)
        return self.o_proj(heads.merge_heads(out))
