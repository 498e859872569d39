r"""One vector for a text: the mean over its real tokens."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Combine = Callable[[Tensor, Tensor], Tensor]


def mean_pool_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[[1.0, 4.0], [3.0, 0.0], [8.0, 8.0]]]), torch.tensor([[True, True, False]])), {}
    b, t, d = draw.sizes(3, 3, 7)
    mask = uneven_mask(draw, b, t + 4)
    yield (draw.normal(b, t + 4, d), mask), {}
    yield (draw.normal(b, t + 4, d, dtype=torch.float64), mask.flip(1)), {}
    yield (draw.normal(b, t + 4, d), draw.booleans(b, t + 4) | mask), {}
    yield (draw.normal(2, 6, d), torch.ones(2, 6, dtype=torch.bool)), {}
    rubbish = draw.normal(b, t + 4, d)
    rubbish[~mask] = torch.tensor(draw.choice([float("nan"), float("inf")]))
    yield (rubbish, mask), {}
    nothing = mask.clone()
    nothing[1] = False
    yield (draw.normal(b, t + 4, d), nothing), {}
    large = 200 + draw.normal(2, 500, 3)
    yield (large.half(), uneven_mask(draw, 2, 500) | (torch.arange(500) < 400)), {}


def uneven_mask(draw: Draw, batch_size: int, seq_len: int) -> Tensor:
    r"""Real tokens in front: 2 in the first row, all but one in the last."""
    lengths = draw.integers(3, seq_len - 2, batch_size)
    lengths[0], lengths[-1] = 2, seq_len - 1
    return torch.arange(seq_len) < lengths[:, None]


def picked_and_averaged(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    r"""Collect the real tokens of each row in a list."""
    out = []
    for row, real in zip(hidden, padding_mask.tolist(), strict=True):
        picked = [vector.double() for vector, is_real in zip(row, real, strict=True) if is_real]
        out.append(sum(picked[1:], picked[0]) / len(picked) if picked else torch.zeros(hidden.shape[2]).double())
    return torch.stack(out).to(hidden.dtype)


def by_matrix_product(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    weights = padding_mask.float() / padding_mask.sum(1, keepdim=True).clamp(min=1)
    clean = torch.where(padding_mask[..., None], hidden.float(), 0.0)
    return torch.einsum("bt,btd->bd", weights, clean).to(hidden.dtype)


def of_real_tokens(combine: Callable[[Tensor], Tensor]) -> Combine:
    r"""Something else than the mean of the real tokens, (T, D) -> (D,), in double precision."""

    def pooled(hidden: Tensor, padding_mask: Tensor) -> Tensor:
        rows = [combine(row[real].double()) if bool(real.any()) else torch.zeros(hidden.shape[2]).double()
                for row, real in zip(hidden, padding_mask, strict=True)]
        return torch.stack(rows).to(hidden.dtype)

    return pooled


def multiplied(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    real = padding_mask[..., None].float()
    return ((hidden.float() * real).sum(1) / real.sum(1).clamp(min=1)).to(hidden.dtype)


def divided_by_length(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    return (hidden.float().masked_fill(~padding_mask[..., None], 0).mean(1)).to(hidden.dtype)


def empty_row_is_nan(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    total = hidden.float().masked_fill(~padding_mask[..., None], 0).sum(1)
    return (total / padding_mask.sum(1, keepdim=True)).to(hidden.dtype)


def summed_in_half(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    total = hidden.masked_fill(~padding_mask[..., None], 0).sum(1)
    return total / padding_mask.sum(1, keepdim=True).clamp(min=1)


def by_the_batch(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    total = hidden.double().masked_fill(~padding_mask[..., None], 0).sum(1)
    return (total / (padding_mask.sum() / len(hidden))).to(hidden.dtype)


def widened(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    return by_matrix_product(hidden.float(), padding_mask)


MEAN_POOL = Exercise(
    id="inference.pooling.mean_pool",
    lesson="16",
    title="Mean pooling",
    task="Make one vector of a text: the mean of `hidden` (B, T, D) over the real tokens of each row. `padding_mask` "
    "(B, T) is True for these; they may stand anywhere. What is at padding must make no difference, not even if it is "
    "nan. A row without a real token gives zeros. The result has the dtype of `hidden`, but sum in float32: in half "
    "precision a sum of many tokens can leave the range.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=166,
    hints=(
        "A row of three tokens of which two are real: by what is its sum divided? And if none is real?",
        "Put zeros where padding is, sum over the tokens, divide by the number of real ones in that row. "
        "`padding_mask[:, :, None]` has a place for D.",
        "0 * nan is nan, so multiplying with the mask is not enough; `masked_fill` or `torch.where` write over it. And "
        "`clamp(min=1)` makes a division by 0 harmless.",
    ),
    cases=mean_pool_cases,
    oracle=picked_and_averaged,
    other_style=by_matrix_product,
    tolerance=Tolerance(1e-4, 1e-5, "float32 sums of hundreds of numbers"),
    mistakes=(
        Mistake(
            "padding counted",
            lambda hidden, padding_mask: hidden.float().mean(1).to(hidden.dtype),
            "You average over all places, padding too. A text's vector then depends on how long its neighbours in the "
            "batch are: the same text, asked twice, is not itself any more.",
        ),
        Mistake(
            "divided by T",
            divided_by_length,
            "You sum the real tokens, and divide by all places. Short texts get short vectors: divide by the number of "
            "real tokens of the row.",
        ),
        Mistake(
            "multiplied with the mask",
            multiplied,
            "You multiply with the mask. Where padding holds nan or infinity, that gives nan, for 0 * nan is nan. "
            "Write zeros over it instead.",
        ),
        Mistake(
            "nan for an empty row",
            empty_row_is_nan,
            "A row without a real token is divided by 0, and its nan will spread to all that it is compared with. Give "
            "zeros.",
        ),
        Mistake(
            "sum in half precision",
            summed_in_half,
            "In float16 your sum passes 65504, the largest number there, and becomes infinite, though the mean would "
            "be small. Sum in float32, and cast the mean.",
        ),
        Mistake(
            "dtype not kept",
            widened,
            "The values are right, but you give float32 whatever came in. Cast the result to the dtype of `hidden`.",
        ),
        Mistake(
            "sum",
            of_real_tokens(lambda row: row.sum(0)),
            "This is the sum of the real tokens. Long texts get long vectors: divide by the number of tokens.",
        ),
        Mistake(
            "maximum",
            of_real_tokens(lambda row: row.amax(0)),
            "You take the largest value of each feature. That is max pooling, which works too, but not here.",
        ),
        Mistake(
            "first token",
            of_real_tokens(lambda row: row[0]),
            "You take the first token. In BERT it is trained to stand for the text; in a causal model it has seen "
            "nothing but itself.",
        ),
        Mistake(
            "last token",
            of_real_tokens(lambda row: row[-1]),
            "You take the last real token: that is last-token pooling, which a causal model can be trained for. Here "
            "all real tokens count the same.",
        ),
        Mistake(
            "mask turned round",
            lambda hidden, padding_mask: of_real_tokens(lambda row: row.mean(0))(hidden, ~padding_mask),
            "You average the padding. In this course True marks a real token.",
        ),
        Mistake(
            "one count for all rows",
            by_the_batch,
            "You divide every row by the average number of real tokens in the batch. Each row has its own.",
        ),
        Mistake(
            "length one",
            of_real_tokens(lambda row: torch.nn.functional.normalize(row.mean(0), dim=0)),
            "You have also scaled the vector to length 1. That is for whoever compares vectors; this function gives "
            "the mean.",
        ),
    ),
)
