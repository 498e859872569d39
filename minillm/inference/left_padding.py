r"""Prompts of different lengths in one batch: the padding goes on the left, so that all of them end at one place."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def left_pad(rows: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    r"""Put rows of token ids under each other, so that their last tokens stand in one column.

    Args:
        rows: ids of each prompt, none empty.
        pad_id: what fills the front; the mask hides it.
    Returns: token ids, (B, T), int64, and the padding mask, (B, T), bool, True = real token.
    Raises:
        ValueError: if there is no row, or an empty one.
    Lesson: 09.
    """
    if not rows or not all(rows):
        raise ValueError(f"rows has lengths {[len(row) for row in rows]}: give at least one row, and a token in each")
    longest = max(len(row) for row in rows)
    token_ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows])
    padding_mask = torch.arange(longest) >= torch.tensor([[longest - len(row)] for row in rows])
    return token_ids, padding_mask
