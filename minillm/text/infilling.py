r"""GLM's game: a text with blanks, and after it the missing spans in any order, each token at two positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from minillm.text.batches import IGNORED


@dataclass(frozen=True, eq=False)
class Infilling:
    r"""One text, cut up for a model that fills in blanks.

    Args:
        token_ids: part A, the text with one blank for each span, then part B: for each span a start symbol and its
            tokens, (T,).
        targets: for each token of part B the one after it, at the end of a span the end symbol; -100 in part A, (T,).
        text_positions: where in the text with blanks; all of a span stands at its blank, (T,).
        span_positions: 0 in part A, 1, 2, ... within a span, (T,).
        order: who may see whom: a token sees those whose order is not larger; 0 in part A, then 1, 2, ..., (T,).
    Lesson: 07.
    """

    token_ids: Int64[Tensor, "T"]
    targets: Int64[Tensor, "T"]
    text_positions: Int64[Tensor, "T"]
    span_positions: Int64[Tensor, "T"]
    order: Int64[Tensor, "T"]


def blank_infilling(
    token_ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    blank_id: int,
    start_id: int,
    end_id: int,
    span_order: Sequence[int] | None = None,
) -> Infilling:
    r"""Cut spans out of a text and put them behind it.

    "a b c d e" without "b c" and "e", the second span first: the tokens are "a _ d _ <s> e <s> b c", the targets at
    the last five are "e </s> b c </s>", their first positions 3 3 1 1 1, their second 1 2 1 2 3.

    Args:
        token_ids: the text.
        spans: (start, end) of each span, in order, not touching each other, end not included.
        blank_id: stands in the text for one span.
        start_id: begins each span.
        end_id: the target after the last token of a span.
        span_order: the order in which spans are written, a permutation of 0 to len(spans) - 1; None = as in the text.
    Returns: an `Infilling`; every tensor int64.
    Raises:
        ValueError: if span_order is no permutation of the spans.
    Source: Du et al. 2022, GLM, sections 2.1 and 2.2 and figure 2.
    Lesson: 07.
    """
    span_order = list(range(len(spans))) if span_order is None else list(span_order)
    if sorted(span_order) != list(range(len(spans))):
        raise ValueError(f"span_order={span_order}: use a permutation of 0 to {len(spans) - 1}, one number a span")
    part_a: list[int] = []
    blank_at: list[int] = []
    at = 0
    for start, end in spans:
        part_a += token_ids[at:start]
        blank_at.append(len(part_a))
        part_a.append(blank_id)
        at = end
    part_a += token_ids[at:]
    tokens, targets = list(part_a), [IGNORED] * len(part_a)
    text_positions, span_positions = list(range(len(part_a))), [0] * len(part_a)
    for number in span_order:
        span = list(token_ids[slice(*spans[number])])
        tokens += [start_id, *span]
        targets += [*span, end_id]
        text_positions += [blank_at[number]] * (len(span) + 1)
        span_positions += range(1, len(span) + 2)
    order = [0] * len(part_a) + list(range(1, len(tokens) - len(part_a) + 1))
    return Infilling(*map(torch.tensor, (tokens, targets, text_positions, span_positions, order)))
