r"""Flash attention: exact attention in tiles, forward by online softmax, backward by computing the weights again.

What it saves is memory and memory traffic, not multiplications: no table of Tq x Tk numbers ever exists, neither in the
forward pass nor, kept for the gradients, after it.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillm.layers import online_softmax, tiles
from minillm.layers.tiles import PositionTable


def flash_forward(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    mask: Bool[Tensor, "..."] | PositionTable | None = None,
    attn_bias: Float[Tensor, "..."] | PositionTable | None = None,
    scale: float | None = None,
    tile_len: int = 64,
) -> tuple[Float[Tensor, "*batch Tq Dv"], Float[Tensor, "*batch Tq"]]:
    r"""Attention tile by tile, and the logarithm of each query's sum of exponentials.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend; or a rule for it.
        attn_bias: broadcasts to (..., Tq, Tk), added to the scaled scores; or a rule for it.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
        tile_len: queries and keys in a tile, at least 1.
    Returns: the output (..., Tq, Dv), dtype of q, zeros for a query that may attend nowhere; and
        log sum_j exp(score_j), (..., Tq), float32 or float64, -inf for such a query.
    Source: Dao 2023, FlashAttention-2, algorithm 1. Their B_r and B_c are both our tile_len.
    Lesson: 03.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    outs, lses = [], []
    for rows, seen in tiles.tiles_of(q.shape[-2], k.shape[-2], tile_len, mask):
        q_tile = q[..., rows, :]
        running_out = q_tile.new_zeros(*q_tile.shape[:-1], v.shape[-1], dtype=wide)
        running_sum = torch.zeros_like(running_out[..., :1])
        running_max = torch.full_like(running_sum, float("-inf"))
        for columns in seen:
            scores = tiles.tile_scores(q, k, rows, columns, mask, attn_bias, scale)
            running_max, running_sum, running_out = online_softmax.online_softmax(
                scores, v[..., columns, :], running_max, running_sum, running_out
            )
        outs.append((running_out / running_sum.masked_fill(running_sum == 0, 1.0)).to(q.dtype))
        lses.append((running_max + running_sum.log()).squeeze(-1))
    return torch.cat(outs, dim=-2), torch.cat(lses, dim=-1)


def flash_backward(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    out: Float[Tensor, "*batch Tq Dv"],
    lse: Float[Tensor, "*batch Tq"],
    grad_out: Float[Tensor, "*batch Tq Dv"],
    grad_lse: Float[Tensor, "*batch Tq"] | None = None,
    mask: Bool[Tensor, "..."] | PositionTable | None = None,
    attn_bias: Float[Tensor, "..."] | PositionTable | None = None,
    scale: float | None = None,
    tile_len: int = 64,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    r"""The gradients of flash_forward, from nothing but its inputs, its output and one number a query.

    The weights were thrown away. They come back tile by tile as exp(score - lse), with no softmax to be done again.
    With P the weights, dO the gradient of the output and d the row sums of dO * O:
    dV = P^T dO,   dS = P * (dO V^T - d),   dQ = dS K * scale,   dK = dS^T Q * scale.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        out: what flash_forward gave, (..., Tq, Dv).
        lse: what it gave besides, (..., Tq).
        grad_out: gradient of the loss by out, (..., Tq, Dv).
        grad_lse: gradient by lse, (..., Tq); None = the loss does not use it.
        mask: as in flash_forward.
        attn_bias: as in flash_forward.
        scale: as in flash_forward.
        tile_len: queries and keys in a tile, at least 1.
    Returns: gradients by q, k, v and attn_bias (None unless that is a tensor that requires a gradient), in their shapes
        and dtypes.
    Source: Dao 2023, FlashAttention-2, algorithm 2; the term for lse, which is dlse * P, is not in the paper.
    Lesson: 03.
    """
    wide, factor = lse.dtype, q.shape[-1] ** -0.5 if scale is None else scale
    grads = [torch.zeros_like(x, dtype=wide) for x in (q, k, v)]
    learned = isinstance(attn_bias, Tensor) and attn_bias.requires_grad
    grad_bias = torch.zeros_like(attn_bias, dtype=wide) if learned else None
    row_terms = (grad_out.to(wide) * out.to(wide)).sum(dim=-1)  # d, one number a query
    if grad_lse is not None:
        row_terms = row_terms - grad_lse
    finite_lse = lse.masked_fill(lse == float("-inf"), 0.0)  # a row without keys: exp(-inf - 0) = 0
    for rows, seen in tiles.tiles_of(q.shape[-2], k.shape[-2], tile_len, mask):
        q_tile, grad_tile = q[..., rows, :].to(wide), grad_out[..., rows, :].to(wide)
        for columns in seen:
            k_tile, v_tile = k[..., columns, :].to(wide), v[..., columns, :].to(wide)
            scores = tiles.tile_scores(q, k, rows, columns, mask, attn_bias, scale)
            weights = (scores - finite_lse[..., rows, None]).exp()
            grads[2][..., columns, :] += weights.transpose(-2, -1) @ grad_tile
            grad_scores = weights * (grad_tile @ v_tile.transpose(-2, -1) - row_terms[..., rows, None])
            grads[0][..., rows, :] += grad_scores @ k_tile * factor
            grads[1][..., columns, :] += grad_scores.transpose(-2, -1) @ q_tile * factor
            if grad_bias is not None:
                place = tiles.part_of_table(grad_bias, rows, columns)
                place += grad_scores.sum_to_size(place.shape)
    grad_q, grad_k, grad_v = (grad.to(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True))
    return grad_q, grad_k, grad_v, None if grad_bias is None else grad_bias.to(attn_bias.dtype)


class FlashFunction(torch.autograd.Function):
    r"""flash_forward with flash_backward as its derivative: autograd keeps q, k, v, out and lse, and no weights.

    Lesson: 03.
    """

    @staticmethod
    def forward(ctx: Any, q, k, v, attn_bias, mask, scale, tile_len) -> tuple[Tensor, Tensor]:
        out, lse = flash_forward(q, k, v, mask, attn_bias, scale, tile_len)
        tables = [table if isinstance(table, Tensor) else None for table in (attn_bias, mask)]
        ctx.save_for_backward(q, k, v, out, lse, *tables)
        ctx.rules = [None if isinstance(table, Tensor) else table for table in (attn_bias, mask)]
        ctx.options = scale, tile_len
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        r"""Recompute, tile by tile."""
        *kept, attn_bias, mask = ctx.saved_tensors
        attn_bias, mask = (
            rule if table is None else table for table, rule in zip((attn_bias, mask), ctx.rules, strict=True)
        )
        grads = flash_backward(*kept, grad_out, grad_lse, mask, attn_bias, *ctx.options)
        return *grads, None, None, None


def flash_with_lse(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    mask: Bool[Tensor, "..."] | PositionTable | None = None,
    attn_bias: Float[Tensor, "..."] | PositionTable | None = None,
    scale: float | None = None,
    tile_len: int = 64,
) -> tuple[Float[Tensor, "*batch Tq Dv"], Float[Tensor, "*batch Tq"]]:
    r"""flash_forward, with gradients through both results: what answers of several blocks are merged from.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend; or a rule for it.
        attn_bias: broadcasts to (..., Tq, Tk), added to the scaled scores; or a rule for it, which gets no gradients.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
        tile_len: queries and keys in a tile, at least 1.
    Returns: the output (..., Tq, Dv), dtype of q, and the log-sum-exp of the scores, (..., Tq), float32 or float64.
    Raises:
        ValueError: if attn_bias is a rule whose parameters are to be trained: they would get no gradients.
    Source: Dao et al. 2022, FlashAttention, section 3.1; Dao 2023, algorithms 1 and 2.
    Lesson: 03.
    """
    if isinstance(attn_bias, PositionTable) and torch.is_grad_enabled():
        corner = tiles.filled_table(tiles.part_of_table(attn_bias, slice(1), slice(1)), q.dim())
        if corner.requires_grad:
            raise ValueError("attn_bias is a rule with parameters to be trained; give the tensor that the rule makes")
    return FlashFunction.apply(q, k, v, attn_bias, mask, scale, tile_len)


def flash_attention(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    mask: Bool[Tensor, "..."] | PositionTable | None = None,
    attn_bias: Float[Tensor, "..."] | PositionTable | None = None,
    scale: float | None = None,
    tile_len: int = 64,
) -> Float[Tensor, "*batch Tq Dv"]:
    r"""sdpa.sdpa with the same arguments and the same result, in memory that grows with T and not with T^2.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend; or a rule for it, which is never made whole.
        attn_bias: broadcasts to (..., Tq, Tk), added to the scaled scores; or a rule for it, which gets no gradients.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
        tile_len: queries and keys in a tile, at least 1.
    Returns: (..., Tq, Dv), dtype of q; zeros for a query that may attend nowhere.
    Source: Dao et al. 2022, FlashAttention; Dao 2023, FlashAttention-2.
    Lesson: 03.
    """
    return flash_with_lse(q, k, v, mask, attn_bias, scale, tile_len)[0]


def attention_traffic(
    seq_len: int, head_dim: int, n_heads: int, bytes_per_number: int = 4, tile_len: int | None = None
) -> int:
    r"""How many bytes one forward pass of attention moves between a large slow memory and a small fast one.

    Without tiles there are three steps, and each reads its inputs from the slow memory and writes its result there:
    scores, softmax, weighted sum. With tiles, a tile of queries stays in the fast memory, which must hold about
    4 * tile_len * head_dim + tile_len^2 numbers, and all keys and values pass by it once.

    Args:
        seq_len: T, queries and keys alike; no mask.
        head_dim: Dh.
        n_heads: H.
        bytes_per_number: 4 for float32, 2 for bfloat16.
        tile_len: queries in a tile; None = without tiles.
    Returns: bytes, for one sequence.
    Source: Dao et al. 2022, section 3.2, theorem 2, whose T^2 Dh^2 / M this is, with M the size of the fast memory.
        The log-sum-exp, one number a query, is left out.
    Lesson: 03.
    """
    rows = seq_len * head_dim
    if tile_len is None:
        numbers = (2 * rows + seq_len**2) + 2 * seq_len**2 + (seq_len**2 + 2 * rows)
    else:
        numbers = 2 * rows + len(tiles.tile_slices(seq_len, tile_len)) * 2 * rows
    return numbers * n_heads * bytes_per_number
