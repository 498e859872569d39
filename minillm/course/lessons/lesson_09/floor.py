r"""Min-p: tokens that are not too far below the best."""

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


def min_p_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[0.1, 0.5, 0.04, 0.36]]).log(), 0.15), {}
    for logits in drawn_logits(draw):
        yield (logits, draw.size(3, 12) / 100), {}
        yield (logits, draw.size(25, 60) / 100), {}
    yield (draw.normal(3, 8), 1.0), {}
    yield (draw.normal(3, 8), 0.0), {}
    yield (draw.normal(3, 8), 1.0 + draw.size(1, 9) / 10), {}  # to be refused
    yield (draw.normal(3, 8), -draw.size(1, 9) / 10), {}


def keep_near(choose, fill: float = FORBIDDEN):
    return within(0, 1, keeps(choose, fill))


def near_the_best(row, min_p):
    probs = probabilities(row)
    return [i for i, p in enumerate(probs) if p >= min_p * max(probs)]


def by_distance(logits: Tensor, min_p: float) -> Tensor:
    r"""In logits: a share of the best probability is a distance below the best logit."""
    if not 0 <= min_p <= 1:
        raise ValueError("out of range")
    limit = logits.max(dim=-1, keepdim=True).values + torch.tensor(min_p, dtype=torch.float64).log()
    return torch.where(logits >= limit, logits, torch.full_like(logits, FORBIDDEN))


def best_of_all_rows(logits: Tensor, min_p: float) -> Tensor:
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < min_p * probs.max(), FORBIDDEN)


MIN_P_FILTER = Exercise(
    id="inference.sampling.min_p_filter",
    lesson="09",
    title="Min-p",
    task="Keep the logits of tokens that are at least `min_p` times as likely as the likeliest of their row, and set "
    "the others to -inf. 0 keeps all, 1 only the best; anything outside [0, 1] must be refused with a ValueError.",
    difficulty=1,
    minutes=7,
    points=3,
    seed=94,
    hints=(
        "Probabilities 0.1, 0.5, 0.04, 0.36 and min_p 0.15: the limit is 0.15 * 0.5 = 0.075. Who stays?",
        "The limit is a number for each row: the largest probability of the row, with its dimension kept, times min_p.",
    ),
    cases=min_p_cases,
    oracle=keep_near(near_the_best),
    other_style=by_distance,
    mistakes=(
        Mistake(
            "min_p ignored",
            keep_near(lambda row, min_p: range(len(row))),
            "min_p does nothing: all tokens stay, whatever it is.",
        ),
        Mistake(
            "an absolute limit",
            keep_near(lambda row, min_p: [i for i, p in enumerate(probabilities(row)) if p >= min_p]),
            "You compare probabilities with min_p itself. Where the model is unsure and no token has so much, nothing "
            "would be left. The limit moves with the likeliest token: min_p times its probability.",
        ),
        Mistake(
            "in logits",
            keep_near(lambda row, min_p: [i for i, x in enumerate(row) if x >= min_p * max(row)]),
            "You take a share of the largest *logit*. Logits have no zero point: add 100 to all of them, and your "
            "filter keeps other tokens. Take the softmax first.",
        ),
        Mistake(
            "only what is above",
            keep_near(lambda row, min_p: [i for i, p in enumerate(probabilities(row)) if p > min_p * max(
                probabilities(row))]),
            "You keep only what is strictly *above* the limit. With min_p 1 the likeliest token itself is lost.",
        ),
        Mistake(
            "the best of all rows",
            within(0, 1, best_of_all_rows),
            "You measure against the likeliest token of the whole tensor. Each row has a best of its own.",
        ),
        Mistake(
            "top-p",
            keep_near(lambda row, min_p: reaching(by_likelihood(row), probabilities(row), min_p)),
            "You add up probabilities until they reach min_p. That is top-p; min-p looks at each token by itself, "
            "beside the best one.",
        ),
        Mistake(
            "the wrong side",
            keep_near(lambda row, min_p: [i for i in range(len(row)) if i not in near_the_best(row, min_p)]),
            "You keep exactly what should go: the tokens *below* the limit.",
        ),
        Mistake(
            "zeros",
            keep_near(near_the_best, fill=0.0),
            "You set what is dropped to 0, which as a logit is not at all impossible. Use -inf.",
        ),
    ),
)
