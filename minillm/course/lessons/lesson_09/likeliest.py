r"""Top-k: a fixed number of tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_09.keeping import FORBIDDEN, Case, drawn_logits, keeps, within


def top_k_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2), {}
    for logits in drawn_logits(draw):
        yield (logits, draw.size(2, logits.shape[-1] - 1)), {}
    b, vocab_size = draw.sizes(2, 5, 9)
    yield (draw.normal(b, vocab_size), 1), {}
    yield (torch.tensor([[2.0, 5.0, 2.0, 1.0, 2.0]]) + draw.size(0, 3), 2), {}  # three that are equal share place 2
    yield (draw.normal(b, vocab_size), vocab_size + draw.size(1, 4)), {}
    yield (draw.normal(b, vocab_size), -draw.size(0, 3)), {}  # to be refused


def at_least_kth(logits: Tensor, top_k: int) -> Tensor:
    if top_k <= 0:
        raise ValueError("at least 1")
    descending = logits.sort(dim=-1, descending=True).values
    limit = descending[..., min(top_k, logits.shape[-1]) - 1].unsqueeze(-1)
    return torch.where(logits >= limit, logits, torch.full_like(logits, FORBIDDEN))


def keep_k(choose, fill: float = FORBIDDEN):
    return within(1, float("inf"), keeps(choose, fill))


def as_likely(row, top_k):
    return [i for i, x in enumerate(row) if x >= sorted(row, reverse=True)[:top_k][-1]]


def first_of_equals(row, top_k):
    return sorted(range(len(row)), key=lambda i: -row[i])[:top_k]


def of_all_rows(logits: Tensor, top_k: int) -> Tensor:
    limit = logits.flatten().sort(descending=True).values[min(top_k, logits.numel()) - 1]
    return logits.masked_fill(logits < limit, FORBIDDEN)


def only_the_values(logits: Tensor, top_k: int) -> Tensor:
    return logits.topk(min(top_k, logits.shape[-1]), dim=-1).values


TOP_K_FILTER = Exercise(
    id="inference.sampling.top_k_filter",
    lesson="09",
    title="Top-k",
    task="Keep the `top_k` largest logits of each row as they are and set the others to -inf. Logits that are equal to "
    "the k-th are all kept. A `top_k` of V or more changes nothing; one below 1 must be refused with a ValueError.",
    difficulty=1,
    minutes=8,
    points=3,
    seed=92,
    hints=(
        "You need not know *which* tokens are the largest: it is enough to know the smallest value that may stay.",
        "That value is the last of what `Tensor.topk` gives. Keep its dimension, so that each row is compared with its "
        "own.",
        "For logits 1, 3, 2, 0 and top_k 2 the limit is 2, and what is less becomes -inf.",
    ),
    cases=top_k_cases,
    oracle=keep_k(as_likely),
    other_style=at_least_kth,
    mistakes=(
        Mistake(
            "top_k ignored",
            keep_k(lambda row, top_k: range(len(row))),
            "top_k does nothing: all logits come back. The long tail of unlikely tokens stays in the draw.",
        ),
        Mistake(
            "one too few",
            keep_k(lambda row, top_k: [i for i in range(len(row)) if row[i] > sorted(row, reverse=True)[:top_k][-1]]),
            "You keep only what is *larger* than the k-th logit, so the k-th itself is lost, and with top_k 1 nothing "
            "is left at all.",
        ),
        Mistake(
            "equal ones cut",
            keep_k(first_of_equals),
            "Of equal logits at the border you keep some and drop others, by their place in the vocabulary. Nothing "
            "speaks for one of them: compare with the k-th value, and all that reach it stay.",
        ),
        Mistake(
            "zeros",
            keep_k(as_likely, fill=0.0),
            "You set what is dropped to 0. A logit of 0 is nothing special: it may well be the largest. Only -inf has "
            "probability 0.",
        ),
        Mistake(
            "a large number in place of -inf",
            keep_k(as_likely, fill=-1e9),
            "You fill with a large negative number. It is larger than -inf, which other filters write: if they forbid "
            "the rest, what you have dropped comes back.",
        ),
        Mistake(
            "the smallest",
            keep_k(lambda row, top_k: first_of_equals([-x for x in row], top_k)),
            "You keep the smallest logits, the tokens that the model thinks least of.",
        ),
        Mistake(
            "of all rows together",
            within(1, float("inf"), of_all_rows),
            "You look for the k-th of the whole tensor. Each row has its own: the last dimension is the vocabulary.",
        ),
        Mistake(
            "only the k values",
            within(1, float("inf"), only_the_values),
            "You return the k values alone. Then nobody knows which tokens they belong to: the shape stays (..., V).",
        ),
        Mistake(
            "more than there are",
            lambda logits, top_k: at_least_kth(logits, top_k) if top_k < 1 else logits.masked_fill(
                logits < logits.topk(top_k, dim=-1).values[..., -1:], FORBIDDEN),
            "`topk` fails when top_k is larger than the vocabulary. That is no error: then every token stays.",
        ),
    ),
)
