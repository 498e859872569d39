r"""Texts with holes: what encoders and encoder-decoders are trained to repair."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from minillm.text.batches import IGNORED


def mask_tokens(
    token_ids: Int64[Tensor, "*batch"],
    mask_id: int,
    vocab_size: int,
    generator: torch.Generator,
    share: float = 0.15,
) -> tuple[Int64[Tensor, "*batch"], Int64[Tensor, "*batch"]]:
    r"""BERT's game: some tokens are chosen, most of them are hidden, and the model has to name them all.

    Of the chosen ones 80 % become `mask_id`, 10 % a random token and 10 % stay as they are; the model cannot tell a
    token that stayed from one that was never chosen, so it must know what it thinks about every position.

    Args:
        token_ids: any shape, int64.
        mask_id: the id of the mask symbol.
        vocab_size: random tokens are drawn from 0 to vocab_size - 1.
        generator: the source of chance; it is advanced.
        share: how many of the tokens are chosen.
    Returns: the corrupted tokens, and targets that are -100 where no token was chosen; int64.
    Source: Devlin et al. 2019, BERT, section 3.1 and appendix A.1.
    Lesson: 07.
    """
    chosen = torch.rand(token_ids.shape, generator=generator) < share
    dice = torch.rand(token_ids.shape, generator=generator)
    others = torch.randint(vocab_size, token_ids.shape, generator=generator)
    corrupted = token_ids.masked_fill(chosen & (dice < 0.8), mask_id)
    corrupted = torch.where(chosen & (dice >= 0.9), others, corrupted)
    return corrupted, token_ids.masked_fill(~chosen, IGNORED)


def random_spans(
    n_tokens: int, generator: torch.Generator, share: float = 0.15, mean_len: float = 3.0
) -> list[tuple[int, int]]:
    r"""Choose spans of a text to cut out: a fixed number of tokens in a fixed number of spans, at random places.

    The text begins with a piece that is kept, and kept and cut pieces alternate; no piece is empty.

    Args:
        n_tokens: length of the text, at least 4.
        generator: the source of chance; it is advanced.
        share: how many of the tokens are cut.
        mean_len: mean length of a span.
    Returns: (start, end) of each span, in order, end not included.
    Raises:
        ValueError: if the text is too short to be cut so.
    Source: Raffel et al. 2020, T5, section 3.1.4.
    Lesson: 07.
    """
    n_cut = max(1, round(share * n_tokens))
    n_spans = max(1, round(n_cut / mean_len))
    if n_tokens - n_cut < n_spans:
        raise ValueError(f"n_tokens={n_tokens}, share={share}: too short to keep a token before each of {n_spans} "
                         "spans; use a longer text or a smaller share")
    kept, cut = (_pieces(total, n_spans, generator) for total in (n_tokens - n_cut, n_cut))
    spans, at = [], 0
    for kept_len, cut_len in zip(kept, cut, strict=True):
        spans.append((at + kept_len, at + kept_len + cut_len))
        at += kept_len + cut_len
    return spans


def corrupt_spans(
    token_ids: Sequence[int], spans: Sequence[tuple[int, int]], sentinel_ids: Sequence[int]
) -> tuple[list[int], list[int]]:
    r"""T5's game: spans are cut out, a sentinel stands for each, and the target lists what was cut.

    "Mia found a red kite in the cave" without "found a" and "cave": the input is "Mia <0> red kite in the <1>", the
    target "<0> found a <1> cave <2>". The last sentinel closes the list.

    Args:
        token_ids: the text.
        spans: (start, end) of each span, in order, not touching each other.
        sentinel_ids: ids to mark the spans with, at least one more than there are spans.
    Returns: what the encoder reads, and what the decoder has to write.
    Raises:
        ValueError: if there are too few sentinels.
    Source: Raffel et al. 2020, T5, section 3.1.4 and figure 2.
    Lesson: 07.
    """
    if len(sentinel_ids) <= len(spans):
        raise ValueError(f"sentinel_ids has {len(sentinel_ids)} ids: use one more than the {len(spans)} spans")
    inputs: list[int] = []
    targets: list[int] = []
    at = 0
    for (start, end), sentinel in zip(spans, sentinel_ids, strict=False):
        inputs += [*token_ids[at:start], sentinel]
        targets += [sentinel, *token_ids[start:end]]
        at = end
    return inputs + list(token_ids[at:]), [*targets, sentinel_ids[len(spans)]]


def _pieces(total: int, count: int, generator: torch.Generator) -> list[int]:
    r"""Cut a length into pieces of at least 1, every way equally likely."""
    cuts = torch.randperm(total - 1, generator=generator)[: count - 1].sort().values + 1
    edges = [0, *cuts.tolist(), total]
    return [b - a for a, b in zip(edges, edges[1:], strict=False)]
