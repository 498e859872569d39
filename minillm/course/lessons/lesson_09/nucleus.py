r"""Top-p: as many tokens as hold a share of the probability."""

from collections.abc import Iterator

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_09.keeping import (
    FORBIDDEN,
    Case,
    by_likelihood,
    drawn_logits,
    keeps,
    probabilities,
    reaching,
    within,
)


def top_p_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log(), 0.7), {}
    for logits in drawn_logits(draw):
        yield (logits, draw.size(30, 60) / 100), {}
        yield (logits, draw.size(70, 97) / 100), {}
    yield (torch.tensor([[0.0, 6.0, 1.0, -1.0], [1.0, 0.0, 1.5, 7.0]]) + draw.normal(1, 4, scale=0.1), 0.5), {}
    yield (draw.normal(3, 8), 1.0), {}
    yield (draw.normal(3, 8), 0.0), {}  # to be refused
    yield (draw.normal(3, 8), 1.0 + draw.size(1, 9) / 10), {}


def keep_share(choose, fill: float = FORBIDDEN):
    return within(0, 1, keeps(choose, fill), low_open=True)


def in_range(function):
    return within(0, 1, function, low_open=True)


def nucleus(row, top_p):
    return range(len(row)) if top_p == 1 else reaching(by_likelihood(row), probabilities(row), top_p)


def by_rank(logits: Tensor, top_p: float) -> Tensor:
    r"""Compare every token with every other: how much mass is likelier than it?"""
    probs = logits.double().softmax(-1)
    likelier = logits[..., None, :] > logits[..., :, None]
    before = (likelier * probs[..., None, :]).sum(-1)
    return torch.where((before < top_p) | (top_p == 1), logits, torch.full_like(logits, FORBIDDEN))


def ordered(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    values, order = logits.sort(dim=-1, descending=True)
    probs = values.softmax(-1)
    return values.masked_fill((probs.cumsum(-1) - probs >= top_p) & (top_p < 1), FORBIDDEN), order


def crossing_lost(row, top_p):
    chosen = reaching(by_likelihood(row), probabilities(row), top_p)
    return range(len(row)) if top_p == 1 else chosen[:-1]


def one_more(row, top_p):
    return by_likelihood(row)[: len(nucleus(row, top_p)) + 1]


def without_softmax(logits: Tensor, top_p: float) -> Tensor:
    values, order = logits.sort(dim=-1, descending=True)
    values = values.masked_fill(values.cumsum(-1) - values >= top_p, FORBIDDEN)
    return torch.empty_like(logits).scatter(-1, order, values)


TOP_P_FILTER = Exercise(
    id="inference.sampling.top_p_filter",
    lesson="09",
    title="Top-p",
    task="Walk down the tokens of each row from the likeliest on, adding up their probabilities, until the sum reaches "
    "`top_p`. Keep the logits of those, *with* the one that reaches it; set the others to -inf. A `top_p` of 1 changes "
    "nothing; one outside (0, 1] must be refused with a ValueError.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=93,
    hints=(
        "Probabilities 0.15, 0.5, 0.05, 0.3 and top_p 0.7: sorted they are 0.5, 0.3, ..., the sums 0.5, 0.8, ... Which "
        "tokens stay?",
        "Ask each token for the mass of all that are *likelier than it*. It stays if that mass is still below top_p. "
        "For the likeliest the mass is 0, so one token always stays.",
        "`sort` gives values and order; a cumulative sum gives the mass with the token itself, from which its own "
        "probability is to be taken off.",
        "To bring sorted values back to their places: `scatter` writes to the places that the order names, where "
        "`gather` reads from them.",
    ),
    cases=top_p_cases,
    oracle=keep_share(nucleus),
    other_style=in_range(by_rank),
    mistakes=(
        Mistake(
            "top_p ignored",
            keep_share(lambda row, top_p: range(len(row))),
            "top_p is ignored: every token stays, and with thousands of unlikely ones the draw goes astray sooner or "
            "later.",
        ),
        Mistake(
            "the crossing token dropped",
            keep_share(crossing_lost),
            "You drop the token that crosses the line. When the likeliest alone holds more than top_p, nothing is left "
            "to draw. Compare with the mass *before* each token.",
        ),
        Mistake(
            "one too many",
            keep_share(one_more),
            "You keep one token too many. The token that reaches top_p is the last one.",
        ),
        Mistake(
            "left in sorted order",
            in_range(lambda logits, top_p: ordered(logits, top_p)[0]),
            "You return the logits in sorted order. Then token 0 gets the logit of the likeliest token: bring them "
            "back to their places.",
        ),
        Mistake(
            "gather for scatter",
            in_range(lambda logits, top_p: (lambda values, order: values.gather(-1, order))(*ordered(logits, top_p))),
            "The logits are in wrong places: you gather with the order, which sorts once more by it. The way back is "
            "scatter (or the order's own argsort).",
        ),
        Mistake(
            "from the unlikely end",
            keep_share(lambda row, top_p: range(len(row)) if top_p == 1 else reaching(
                by_likelihood(row)[::-1], probabilities(row), top_p)),
            "You walk up from the least likely token. Sort in descending order.",
        ),
        Mistake(
            "each token by itself",
            keep_share(lambda row, top_p: [i for i, p in enumerate(probabilities(row)) if p >= top_p]),
            "You compare each probability with top_p. It is their running sum that counts; hardly any token has so "
            "much by itself.",
        ),
        Mistake(
            "without softmax",
            in_range(without_softmax),
            "You add up logits. Only probabilities add up to 1: softmax first.",
        ),
        Mistake(
            "zeros",
            keep_share(nucleus, fill=0.0),
            "You set what is dropped to 0. That is a logit like any other, with a probability well above 0: use -inf.",
        ),
        Mistake(
            "probabilities returned",
            in_range(lambda logits, top_p: by_rank(logits, top_p).softmax(-1)),
            "You return probabilities. The result is logits: those that stay are unchanged.",
        ),
    ),
)
