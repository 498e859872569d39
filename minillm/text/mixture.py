r"""Mixtures: how much a model reads of each of several collections."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from minillm.text import batches


def mixture_shares(token_counts: Sequence[int], exponent: float) -> Float64[Tensor, " n"]:
    r"""Choose sampling shares between "as much as there is" and "the same of each".

    Args:
        token_counts: tokens in each collection, each at least 1.
        exponent: 1 samples in proportion to size, 0 gives equal shares; between them small collections are favoured.
    Returns: (n,), float64, sum 1: share i is proportional to token_counts[i] ** exponent.
    Raises:
        ValueError: if there is no collection, or one of them is empty.
    Source: Conneau and Lample 2019 (XLM), section 3.1; Conneau et al. 2020 (XLM-R), section 3, with exponent 0.3.
    Lesson: 01.
    """
    if len(token_counts) == 0 or min(token_counts) < 1:
        raise ValueError(f"token_counts={list(token_counts)}: give at least one collection, and leave out empty ones")
    weights = torch.tensor(token_counts, dtype=torch.float64) ** exponent
    return weights / weights.sum()


def mixed_batch(
    collections: Sequence[Int64[Tensor, " _"]],
    shares: Sequence[float],
    seq_len: int,
    batch_size: int,
    generator: torch.Generator,
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    r"""Cut random windows out of several collections; each window comes from one of them.

    Args:
        collections: token ids, (n,) each.
        shares: the probability that a window comes from each collection; sum 1.
        seq_len: tokens in a window.
        batch_size: windows in a batch.
        generator: the source of chance; it is advanced.
    Returns: inputs and targets, (B, T) each, int64; windows of one collection stand together.
    Raises:
        ValueError: if there are not as many shares as collections.
    Lesson: 01.
    """
    if len(shares) != len(collections):
        raise ValueError(f"shares has {len(shares)} numbers for {len(collections)} collections; give one for each")
    chosen = torch.multinomial(torch.tensor(shares, dtype=torch.float64), batch_size, True, generator=generator)
    counts = chosen.bincount(minlength=len(collections)).tolist()
    parts = [
        batches.next_token_batch(token_ids, seq_len, count, generator)
        for token_ids, count in zip(collections, counts, strict=True)
        if count
    ]
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([targets for _, targets in parts])
