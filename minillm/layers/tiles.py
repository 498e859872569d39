r"""Cut the table of queries and keys into tiles, so that it need never exist as a whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PositionTable:
    r"""A mask or a bias over queries and keys that is written down as its rule, and made only where it is looked at.

    Args:
        rule: (q_positions, kv_positions) -> (..., Tq, Tk), such as masks.causal_mask; without parameters to be trained.
        q_positions: (Tq,) or (B, Tq), int; -1 = padding.
        kv_positions: (Tk,) or (B, Tk), int; -1 = padding.
    Lesson: 03.
    """

    rule: Callable[[Tensor, Tensor], Tensor]
    q_positions: Int[Tensor, "*bq Tq"]
    kv_positions: Int[Tensor, "*bk Tk"]


def tile_slices(seq_len: int, tile_len: int) -> list[slice]:
    r"""Cut 0..seq_len into pieces of one length; the last may be shorter.

    Args:
        seq_len: how many queries or keys there are.
        tile_len: how many go into a tile, at least 1.
    Returns: the slices, in order.
    Raises:
        ValueError: if tile_len is less than 1.
    Reason: Dao et al. 2022, FlashAttention, algorithm 1, steps 3 and 4, with one length for queries and keys.
    Lesson: 03.
    """
    if tile_len < 1:
        raise ValueError(f"tile_len={tile_len}: a tile holds at least one token, use 1 or more")
    return [slice(start, min(start + tile_len, seq_len)) for start in range(0, seq_len, tile_len)]


def part_of_table(table: Tensor | PositionTable | None, rows: slice, columns: slice) -> Tensor | PositionTable | None:
    r"""The part of a mask or bias that belongs to some queries and some keys; nothing is computed or copied.

    Args:
        table: broadcasts to (..., Tq, Tk), or is a rule for it; None stays None.
        rows: which queries.
        columns: which keys.
    Returns: a view of the tensor, or the rule for fewer positions.
    Reason: a dimension of size 1 stands for all rows or all columns, so it is not cut.
    Lesson: 03.
    """
    if table is None:
        return None
    if isinstance(table, PositionTable):
        return PositionTable(table.rule, table.q_positions[..., rows], table.kv_positions[..., columns])
    table = table[(None,) * (2 - table.dim())]
    rows = rows if table.shape[-2] != 1 else slice(None)
    columns = columns if table.shape[-1] != 1 else slice(None)
    return table[..., rows, columns]


def filled_table(table: Tensor | PositionTable | None, n_dims: int) -> Tensor | None:
    r"""Make a table that is only a rule.

    Args:
        table: a tensor, which stays as it is; or a rule; or None.
        n_dims: dimensions of the scores; with (B, H, Tq, Tk), a mask from (B, T) positions is the same for every head.
    Returns: a tensor that broadcasts to the scores, or None.
    Reason: this is the one place where a rule becomes numbers, one tile at a time.
    Lesson: 03.
    """
    if not isinstance(table, PositionTable):
        return table
    made = table.rule(table.q_positions, table.kv_positions)
    return made[:, None] if made.dim() == 3 and n_dims == 4 and made.dtype == torch.bool else made


def tiles_of(
    q_len: int, kv_len: int, tile_len: int, mask: Bool[Tensor, "..."] | PositionTable | None = None
) -> Iterator[tuple[slice, list[slice]]]:
    r"""Walk through the tiles, and leave out those in which no query may see any key.

    Under a causal mask that is nearly half of them, under a sliding window nearly all.

    Args:
        q_len: Tq.
        kv_len: Tk.
        tile_len: queries and keys in a tile, at least 1.
        mask: broadcasts to (..., Tq, Tk), True = may attend; or a rule for it; None = all may.
    Returns: for each slice of queries the slices of keys that at least one of them may see.
    Source: Dao 2023, FlashAttention-2, section 3.1.1, "Causal masking". There only for a causal mask.
    Lesson: 03.
    """
    for rows in tile_slices(q_len, tile_len):
        seen = []
        for columns in tile_slices(kv_len, tile_len):
            visible = filled_table(part_of_table(mask, rows, columns), 4)
            if visible is None or bool(visible.any()):
                seen.append(columns)
        yield rows, seen


def tile_scores(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    rows: slice,
    columns: slice,
    mask: Bool[Tensor, "..."] | PositionTable | None = None,
    attn_bias: Float[Tensor, "..."] | PositionTable | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch tq tk"]:
    r"""The scores of some queries against some keys: q k^T * scale + attn_bias, -inf where the mask says no.

    Args:
        q: all queries, (..., Tq, Dh), float.
        k: all keys, (..., Tk, Dh), float.
        rows: which queries.
        columns: which keys.
        mask: broadcasts to (..., Tq, Tk), True = may attend; or a rule for it; None = all may.
        attn_bias: broadcasts to (..., Tq, Tk); or a rule for it; None = nothing is added.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
    Returns: (..., tq, tk), float32, or float64 if q is.
    Source: Dao et al. 2022, FlashAttention, algorithm 1, step 9. Here a half-precision tile is widened first.
    Lesson: 03.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q[..., rows, :].to(wide) @ k[..., columns, :].to(wide).transpose(-2, -1)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    added = filled_table(part_of_table(attn_bias, rows, columns), scores.dim())
    if added is not None:
        scores = scores + added
    visible = filled_table(part_of_table(mask, rows, columns), scores.dim())
    return scores if visible is None else scores.masked_fill(~visible, float("-inf"))
