r"""Which position each token of a call has."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def resolve_positions(
    token_ids: Int[Tensor, "B T"],
    max_seq_len: int,
    padding_mask: Bool[Tensor, "B Tk"] | None = None,
    positions: Int[Tensor, "*b T"] | None = None,
    cache: Sequence[Any] | None = None,
) -> Int[Tensor, "*b T"]:
    r"""Count real tokens from 0, whatever was cached before and on whichever side the padding stands.

    Padding gets -1, which every mask hides, so that nothing downstream needs the padding mask itself.

    Args:
        token_ids: (B, T), int64.
        max_seq_len: positions must stay below it.
        padding_mask: (B, cached + T), bool, True = real token; None = all real.
        positions: (T,) or (B, T), int64, given instead of counted; None = count.
        cache: layer caches, for the number of tokens before this call; None = no tokens before.
    Returns: (T,) where all rows agree without looking, else (B, T); int64.
    Raises:
        ValueError: if a shape does not fit or a position reaches max_seq_len.
    Source: the rule `cumsum(padding_mask) - 1`, as Hugging Face's decoders count.
    Lesson: 07.
    """
    batch_size, seq_len = token_ids.shape
    n_past = cache[0].length if cache else 0
    if padding_mask is not None:
        want = (batch_size, n_past + seq_len)
        if tuple(padding_mask.shape) != want or padding_mask.dtype != torch.bool:
            raise ValueError(
                f"padding_mask {tuple(padding_mask.shape)} {padding_mask.dtype}: use bool {want}, True = real token; "
                "it covers cached and new tokens")
    if positions is not None:
        if tuple(positions.shape) not in ((seq_len,), (batch_size, seq_len)):
            raise ValueError(f"positions {tuple(positions.shape)}: use ({seq_len},) or ({batch_size}, {seq_len})")
        largest = int(positions.max())
    elif padding_mask is None:
        positions = torch.arange(n_past, n_past + seq_len, device=token_ids.device)
        largest = n_past + seq_len - 1
    else:
        positions = (padding_mask.cumsum(dim=1) - 1)[:, n_past:]
        largest = n_past + seq_len - 1 if n_past + seq_len <= max_seq_len else int(positions.max())
    if largest >= max_seq_len:
        raise ValueError(f"token_ids reach position {largest}: this model accepts max_seq_len={max_seq_len} tokens; "
                         "shorten the text or build a model with a larger max_seq_len")
    if padding_mask is not None:
        positions = positions.masked_fill(~padding_mask[:, n_past:], -1)
    return positions
