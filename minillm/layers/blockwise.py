r"""A long sequence in blocks: each block by itself loses what lies between them; merged blocks lose nothing."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minillm.layers import flash, tiles
from minillm.layers.tiles import PositionTable


def merge_attention(
    out_a: Float[Tensor, "*batch Tq Dv"],
    lse_a: Float[Tensor, "*batch Tq"],
    out_b: Float[Tensor, "*batch Tq Dv"],
    lse_b: Float[Tensor, "*batch Tq"],
) -> tuple[Float[Tensor, "*batch Tq Dv"], Float[Tensor, "*batch Tq"]]:
    r"""Join what the same queries found among two sets of keys, as if they had looked at all keys at once.

    Each output is an average; exp(lse) says how much weight stands behind it. Where one lse is -inf, that side has seen
    nothing and the other side's answer stays as it is.

    Args:
        out_a: attention over the first set of keys, (..., Tq, Dv), float.
        lse_a: log sum exp of their scores, (..., Tq), float; -inf = no key.
        out_b: attention over the second set.
        lse_b: log sum exp of their scores.
    Returns: attention over both sets, (..., Tq, Dv), dtype of out_a; and their log-sum-exp, (..., Tq), dtype of lse_a.
    Source: Rabe and Staats 2021, Self-attention Does Not Need O(n^2) Memory, section 2; Liu, Zaharia and Abbeel 2023,
        Ring Attention, section 3.
    Lesson: 03.
    """
    largest = lse_a.maximum(lse_b).detach()  # it cancels, so no gradient need pass through it
    shift = largest.masked_fill(largest == float("-inf"), 0.0)
    share_a, share_b = (lse_a - shift).exp(), (lse_b - shift).exp()
    total = share_a + share_b
    empty = total == 0
    safe_total = total.masked_fill(empty, 1.0)
    out = out_a * (share_a / safe_total)[..., None] + out_b * (share_b / safe_total)[..., None]
    return out.to(out_a.dtype), (shift + safe_total.log()).masked_fill(empty, float("-inf"))


def isolated_blocks(
    q: Float[Tensor, "*batch T Dh"],
    k: Float[Tensor, "*batch T Dh"],
    v: Float[Tensor, "*batch T Dv"],
    block_len: int,
    mask: Bool[Tensor, "..."] | PositionTable | None = None,
) -> Float[Tensor, "*batch T Dv"]:
    r"""Cut the sequence, and let each block attend to itself and to nothing else: cheap, and not the same function.

    Args:
        q: queries, (..., T, Dh), float.
        k: keys, (..., T, Dh), float.
        v: values, (..., T, Dv), float.
        block_len: tokens in a block, at least 1.
        mask: broadcasts to (..., T, T), bool, True = may attend; or a rule for it; None = all may attend to all.
    Returns: (..., T, Dv), dtype of q. T * block_len scores in place of T^2.
    Source: the block-local attention that Dai et al. 2019, Transformer-XL, section 3.1, sets out to mend.
    Lesson: 03.
    """
    outs = []
    for block in tiles.tile_slices(q.shape[-2], block_len):
        own = tiles.part_of_table(mask, block, block)
        outs.append(flash.flash_attention(q[..., block, :], k[..., block, :], v[..., block, :], own))
    return torch.cat(outs, dim=-2)


def merged_blocks(
    q: Float[Tensor, "*batch T Dh"],
    k: Float[Tensor, "*batch T Dh"],
    v: Float[Tensor, "*batch T Dv"],
    block_len: int,
    mask: Bool[Tensor, "..."] | PositionTable | None = None,
) -> Float[Tensor, "*batch T Dv"]:
    r"""Let all queries visit the keys block by block, and merge what they found: exactly attention over all keys.

    Args:
        q: queries, (..., T, Dh), float.
        k: keys, (..., T, Dh), float.
        v: values, (..., T, Dv), float.
        block_len: tokens in a block, at least 1.
        mask: broadcasts to (..., T, T), bool, True = may attend; or a rule for it; None = all may attend to all.
    Returns: (..., T, Dv), dtype of q. All T^2 scores, never more than a tile of them at a time.
    Source: Rabe and Staats 2021, section 2; Liu and Abbeel 2023, Blockwise Parallel Transformer, section 3, which also
        computes the FFN block by block.
    Lesson: 03.
    """
    out, lse = None, None
    for block in tiles.tile_slices(k.shape[-2], block_len):
        columns = tiles.part_of_table(mask, slice(None), block)
        found = flash.flash_with_lse(q, k[..., block, :], v[..., block, :], columns)
        out, lse = found if out is None else merge_attention(out, lse, *found)
    return out
