r"""Find the bug: how likely is an answer?"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
# The surprise at a token of a row: (logits (T, V), ids, place) -> nats.
Surprise = Callable[[list[list[float]], list[int], int], float]


def choice_cases(draw: Draw) -> Iterator[Case]:
    for dtype, scale in ((torch.float32, 2.0), (torch.float64, 1.0), (torch.bfloat16, 3.0)):
        b, t, v = draw.sizes(3, 3, 6)
        t, v = t + 5, v + 6
        begin = draw.integers(2, 4, b)
        length = torch.stack([begin[i] + draw.size(2, 3) for i in range(b)])
        length[0] = begin[0] + 1  # an answer of one token
        places = torch.arange(t)
        counted = (places >= begin[:, None]) & (places < length[:, None])
        yield (draw.normal(b, t, v, dtype=dtype, scale=scale), draw.integers(0, v - 1, b, t), counted), {}
    counted = draw.booleans(3, 9)
    counted[:, 0], counted[:, 2], counted[:, 5], counted[:, 8] = False, True, False, True  # with gaps; to the end
    yield (100 + draw.normal(3, 9, 8), draw.integers(0, 7, 3, 9), counted), {}
    yield (draw.normal(2, 4, 7), draw.integers(0, 6, 2, 4), torch.ones(2, 4, dtype=torch.bool)), {}  # to be refused
    one_row = torch.tensor([[False, False, True], [False, False, False]])
    yield (draw.normal(2, 3, 7), draw.integers(0, 6, 2, 3), one_row), {}  # to be refused


def found_in_an_evaluation(logits: Tensor, token_ids: Tensor, counted: Tensor) -> Tensor:
    r"""The function as it was found, bug included; the text of the exercise shows it."""
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    of_tokens = log_probs.gather(-1, token_ids[..., None])[..., 0]
    of_tokens = of_tokens.masked_fill(~counted, 0.0)
    return of_tokens.sum(dim=1) / counted.sum(dim=1)


def log_probability(scores: list[float], token: int) -> float:
    top = max(scores)
    return scores[token] - top - math.log(math.fsum(math.exp(x - top) for x in scores))


def given_before(rows: list[list[float]], ids: list[int], place: int) -> float:
    return log_probability(rows[place - 1], ids[place])


def refuse_bad_counts(counted: Tensor) -> None:
    if bool(counted[:, 0].any()) or bool((~counted).all(dim=1).any()):
        raise ValueError("counted: not the first token, and at least one in each row")


def scored_with(
    each: Surprise = given_before,
    combine: Callable[[list[float], int], float] = lambda values, seq_len: math.fsum(values) / len(values),
    chosen: Callable[[list[bool]], list[int]] = lambda row: [t for t, counts in enumerate(row) if counts],
    refuse: Callable[[Tensor], None] = refuse_bad_counts,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    r"""Scores from a loop over rows and places in which one thing is done in another way."""

    def scores(logits: Tensor, token_ids: Tensor, counted: Tensor) -> Tensor:
        refuse(counted)
        values = []
        for rows, ids, row in zip(logits.tolist(), token_ids.tolist(), counted.tolist(), strict=True):
            values.append(combine([each(rows, ids, place) for place in chosen(row)], len(ids)))
        return torch.tensor(values)

    return scores


def by_losses(logits: Tensor, token_ids: Tensor, counted: Tensor) -> Tensor:
    refuse_bad_counts(counted)
    targets = token_ids.masked_fill(~counted, -100)[:, 1:]
    rows = zip(logits.double()[:, :-1], targets, strict=True)
    return -torch.stack([torch.nn.functional.cross_entropy(*row) for row in rows]).float()


def unshifted_counts(logits: Tensor, token_ids: Tensor, counted: Tensor) -> Tensor:
    refuse_bad_counts(counted)
    of_tokens = logits[:, :-1].float().log_softmax(-1).gather(-1, token_ids[:, 1:, None])[..., 0]
    return (of_tokens * counted[:, :-1]).sum(1) / counted[:, :-1].sum(1)


def low_precision(logits: Tensor, token_ids: Tensor, counted: Tensor) -> Tensor:
    refuse_bad_counts(counted)
    of_tokens = logits[:, :-1].log_softmax(-1).gather(-1, token_ids[:, 1:, None])[..., 0].float()
    return (of_tokens * counted[:, 1:]).sum(1) / counted[:, 1:].sum(1)


CONTINUATION_LOG_PROBS = Exercise(
    id="inference.multiple_choice.continuation_log_probs",
    lesson="16",
    title="Find the bug",
    task="A model answers multiple choice by the choice that it holds likeliest: question and choice are read as one "
    "text, one row for each choice, and the log-probabilities of the choice's tokens (`counted`) are averaged. This "
    "code was found in an evaluation:\n\n```python\n"
    "def continuation_log_probs(logits, token_ids, counted):\n"
    "    log_probs = torch.log_softmax(logits.float(), dim=-1)\n"
    "    of_tokens = log_probs.gather(-1, token_ids[..., None])[..., 0]\n"
    "    of_tokens = of_tokens.masked_fill(~counted, 0.0)\n"
    "    return of_tokens.sum(dim=1) / counted.sum(dim=1)\n"
    "```\n\n"
    "All shapes fit, the numbers are finite, and the cell above has shown what they are worth. Say in a sentence what "
    "is wrong, then write it as it should be: float32, (B,). Since nothing foretells the first token of a row, a mask "
    "that counts it must be refused with a ValueError, and so must one that counts no token of some row.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=164,
    hints=(
        "Take the row: Sky is blue, with blue counted. Which of the three positions' logits are about blue?",
        "The logits at place t are made from the tokens up to t, and are about the token at t + 1. Three things have "
        "to be moved against each other: logits, ids, and the mask.",
        "Leave the last place out of the logits, and the first out of the ids and of the mask. Then everything that "
        "stands at the same place belongs together.",
    ),
    cases=choice_cases,
    oracle=scored_with(),
    other_style=by_losses,
    tolerance=Tolerance(1e-4, 1e-5, "float32 logarithms of large logits"),
    mistakes=(
        Mistake(
            "not shifted",
            found_in_an_evaluation,
            "The bug is still there: the logits at a token's own place are asked about that token. They are about the "
            "next one, so what you measure is how likely the model would say each token a second time.",
        ),
        Mistake(
            "shifted the wrong way",
            scored_with(each=lambda rows, ids, t: log_probability(rows[min(t + 1, len(rows) - 1)], ids[t])),
            "You shift in the wrong direction: the logits one place later have seen the token already. Those one place "
            "earlier are about it.",
        ),
        Mistake(
            "mask not shifted",
            unshifted_counts,
            "Logits and ids are shifted, but the mask is not: it now covers each answer but for its first token, and "
            "the token after its end. Leave out the first column of the mask, as of the ids.",
        ),
        Mistake(
            "question counted",
            scored_with(chosen=lambda row: list(range(1, len(row)))),
            "You average over all tokens of the row, the question's and the padding's too. They are no part of the "
            "answer: only those that are `counted` matter.",
        ),
        Mistake(
            "sum",
            scored_with(combine=lambda values, seq_len: math.fsum(values)),
            "You add the log-probabilities up. Each is negative, so a long answer gets a low score for its length "
            "alone: divide by the number of counted tokens.",
        ),
        Mistake(
            "divided by all places",
            scored_with(combine=lambda values, seq_len: math.fsum(values) / (seq_len - 1)),
            "You divide every row by the same number, so this is the sum again: long answers lose. Divide each by the "
            "number of its own counted tokens.",
        ),
        Mistake(
            "probabilities",
            scored_with(combine=lambda values, seq_len: math.fsum(map(math.exp, values)) / len(values)),
            "You average probabilities. One easy token then hides that the rest is impossible; the probability of "
            "a text is a product, so it is logarithms that are added.",
        ),
        Mistake(
            "surprise",
            scored_with(combine=lambda values, seq_len: -math.fsum(values) / len(values)),
            "The sign is turned round: this is the surprise. The *largest* value wins, so the least likely answer "
            "would.",
        ),
        Mistake(
            "least likely token",
            scored_with(combine=lambda values, seq_len: min(values)),
            "You keep the least likely token of each answer. All its counted tokens go into the mean.",
        ),
        Mistake(
            "no softmax",
            scored_with(each=lambda rows, ids, t: rows[t - 1][ids[t]]),
            "You average logits. Their level differs from place to place, and only log_softmax takes it off.",
        ),
        Mistake(
            "in half precision",
            low_precision,
            "For bfloat16 logits the second digit is off, enough to change the winner. Make them float32 before the "
            "softmax.",
        ),
        Mistake(
            "first token counted",
            scored_with(each=lambda rows, ids, t: 0.0 if t == 0 else given_before(rows, ids, t),
                        refuse=lambda counted: refuse_bad_counts(counted & (torch.arange(counted.shape[1]) > 0))),
            "A mask that counts the first token goes through. Nothing stands before it, so the model has said nothing "
            "about it: raise a ValueError.",
        ),
        Mistake(
            "nothing counted",
            scored_with(combine=lambda values, seq_len: math.fsum(values) / len(values) if values else math.nan,
                        refuse=lambda counted: refuse_bad_counts(counted | (torch.arange(counted.shape[1]) == 1))),
            "A row without a counted token gets nan, and argmax takes nan for the largest value. Raise a ValueError.",
        ),
    ),
)
