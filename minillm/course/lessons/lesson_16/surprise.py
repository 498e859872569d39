r"""Perplexity of a batch."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
IGNORED = -100


def perplexity_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.zeros(1, 3, draw.size(20, 60)), torch.tensor([[3, 1, 2]])), {}
    for dtype, scale in ((torch.float32, 2.0), (torch.float64, 1.0), (torch.bfloat16, 3.0)):
        b, t, v = draw.size(3, 4), draw.size(6, 9), draw.size(11, 15)
        yield (draw.normal(b, t, v, dtype=dtype, scale=scale), uneven_targets(draw, b, t, v)), {}
    t, v = draw.size(5, 8), draw.size(6, 9)
    yield (draw.normal(t, v, scale=2.0), uneven_targets(draw, 1, t, v)[0]), {}
    yield (100 + draw.normal(2, 6, 10), draw.integers(0, 9, 2, 6)), {}  # too large for exp
    yield (draw.normal(2, 4, 7), torch.full((2, 4), IGNORED)), {}  # to be refused


def uneven_targets(draw: Draw, batch_size: int, seq_len: int, vocab_size: int) -> Tensor:
    r"""Rows of 2 tokens, of all but one, and of lengths in between; what follows is not counted."""
    targets = draw.integers(0, vocab_size - 1, batch_size, seq_len)
    lengths = draw.integers(2, seq_len - 1, batch_size)
    lengths[0], lengths[-1] = 2, seq_len - 1
    return targets.masked_fill(torch.arange(seq_len) >= lengths[:, None], IGNORED)


def surprises(logits: Tensor, targets: Tensor) -> list[list[float]]:
    r"""Nats at the counted targets of each row, one by one, in Python's own numbers."""
    seq_len, found = targets.shape[-1], []
    for scores, wanted in zip(logits.reshape(-1, seq_len, logits.shape[-1]).tolist(),
                              targets.reshape(-1, seq_len).tolist(), strict=True):
        row = []
        for values, target in zip(scores, wanted, strict=True):
            if target != IGNORED:
                top = max(values)
                row.append(math.log(math.fsum(math.exp(x - top) for x in values)) + top - values[target])
        found.append(row)
    if not any(found):
        raise ValueError(f"targets: all are {IGNORED}")
    return found


def product_of_probabilities(logits: Tensor, targets: Tensor) -> float:
    r"""The geometric mean of 1 / p over all counted places."""
    every = [nats for row in surprises(logits, targets) for nats in row]
    return math.prod(math.exp(nats) ** (1 / len(every)) for nats in every)


def by_cross_entropy(logits: Tensor, targets: Tensor) -> float:
    counted = targets.ne(IGNORED)
    if not counted.any():
        raise ValueError("targets: nothing to count")
    return float(torch.nn.functional.cross_entropy(logits[counted].double(), targets[counted]).exp())


def of_rows(combine: Callable[[list[list[float]]], float]) -> Callable[[Tensor, Tensor], float]:
    r"""A perplexity that combines the surprises of each row in another way."""
    return lambda logits, targets: combine(surprises(logits, targets))


def of_all(combine: Callable[[list[float]], float]) -> Callable[[Tensor, Tensor], float]:
    return of_rows(lambda rows: combine([nats for row in rows for nats in row]))


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def padding_counted(logits: Tensor, targets: Tensor) -> float:
    surprises(logits, targets)
    return by_cross_entropy(logits, targets.clamp(min=0))


def perplexity_shifted_again(logits: Tensor, targets: Tensor) -> float:
    surprises(logits, targets)
    return by_cross_entropy(logits[..., :-1, :], targets[..., 1:])


def perplexity_of_logits(logits: Tensor, targets: Tensor) -> float:
    by_cross_entropy(logits, targets)
    counted = targets != IGNORED
    return float((-logits.double()[counted].gather(-1, targets[counted][:, None])).mean().exp())


def in_its_own_precision(logits: Tensor, targets: Tensor) -> float:
    by_cross_entropy(logits, targets)
    counted = targets != IGNORED
    return float(torch.nn.functional.cross_entropy(logits[counted], targets[counted]).exp())


def exp_overflows(logits: Tensor, targets: Tensor) -> float:
    by_cross_entropy(logits, targets)
    counted = targets != IGNORED
    weights = logits[counted].float().exp()
    probabilities = (weights / weights.sum(-1, keepdim=True)).gather(-1, targets[counted][:, None])
    return float((-probabilities.log()).mean().exp())


def not_refused(logits: Tensor, targets: Tensor) -> float:
    return by_cross_entropy(logits, targets) if bool((targets != IGNORED).any()) else float("nan")


PERPLEXITY = Exercise(
    id="inference.evaluate.perplexity",
    lesson="16",
    title="Perplexity",
    task="How many equally likely tokens would be as hard to guess as these? `logits` (..., T, V) at place t are about "
    "`targets` (..., T) at place t, so nothing is left to shift; a target of -100 is not counted. Give one number, a "
    "Python float: e to the mean surprise, in nats, of all counted targets of the whole batch. Logits of lower "
    "precision are first made float32. If no target is counted, raise a ValueError.",
    difficulty=1,
    minutes=10,
    points=3,
    seed=162,
    hints=(
        "A model that holds all V tokens equally likely has perplexity V. Which mean, and which function of it, "
        "gives V?",
        "Three steps: the surprise at each counted target (log_softmax, then take the target's entry), their mean, "
        "and one exp at the very end.",
        "You have built cross_entropy in lesson 07, and it skips -100. What is left to do before it, and after it?",
    ),
    cases=perplexity_cases,
    oracle=product_of_probabilities,
    other_style=by_cross_entropy,
    tolerance=Tolerance(1e-4, 1e-5, "exp makes a relative error of an absolute one"),
    mistakes=(
        Mistake(
            "padding counted",
            padding_counted,
            "You count the places whose target is -100 as if the target were token 0. Padding belongs to no text: the "
            "number would change with the lengths of its neighbours in the batch.",
        ),
        Mistake(
            "mean of the rows' means",
            of_rows(lambda rows: math.exp(mean([mean(row) for row in rows]))),
            "You take the mean of each row first, and then the mean of these. So a token in a short row counts more "
            "than one in a long row. Put the counted tokens of all rows into one mean.",
        ),
        Mistake(
            "mean of the rows' perplexities",
            of_rows(lambda rows: mean([math.exp(mean(row)) for row in rows])),
            "You average the rows' perplexities. The mean of exponentials is above the exponential of the mean: one "
            "hard text then outweighs all others. Average nats, and take exp once, at the end.",
        ),
        Mistake(
            "mean of 1 / p",
            of_all(lambda every: mean([math.exp(nats) for nats in every])),
            "You take exp at each token, and then the mean: that is the mean of 1 / p, which a single token of "
            "probability 1e-9 makes enormous. First the mean, then exp.",
        ),
        Mistake(
            "1 / mean of p",
            of_all(lambda every: 1 / mean([math.exp(-nats) for nats in every])),
            "You average probabilities and invert the result. Then a few easy tokens hide all the hard ones. It is the "
            "logarithms that are averaged.",
        ),
        Mistake(
            "nats",
            of_all(mean),
            "This is the mean surprise itself, in nats. Perplexity is e to that power, a number of tokens.",
        ),
        Mistake(
            "2 to the nats",
            of_all(lambda every: 2 ** mean(every)),
            "You raise 2 to a number of nats. 2 goes with bits (log2), e with nats (log): mixed, they give a number "
            "that looks better than it is.",
        ),
        Mistake(
            "wrong sign",
            of_all(lambda every: math.exp(-mean(every))),
            "Your perplexity is below 1: it is its inverse. A log-probability is negative, a surprise is its opposite.",
        ),
        Mistake(
            "of the whole text",
            of_all(lambda every: math.exp(min(sum(every), 700.0))),
            "You add the surprises up and take exp: one over the probability of the whole batch, which grows with "
            "every token. Divide by the number of counted tokens first.",
        ),
        Mistake(
            "divided by all places",
            lambda logits, targets: math.exp(sum(map(sum, surprises(logits, targets))) / targets.numel()),
            "The sum leaves -100 out, but you divide it by all places. The more padding there is, the better the model "
            "looks.",
        ),
        Mistake(
            "shifted again",
            perplexity_shifted_again,
            "You shift logits and targets against each other. They are in line already: logits at t are about the "
            "target at t. Shifted twice, the model is asked for the token after the next.",
        ),
        Mistake(
            "no softmax",
            perplexity_of_logits,
            "You take logits for log-probabilities. They become such only when log_softmax has made their exponentials "
            "sum to 1.",
        ),
        Mistake(
            "exp overflows",
            exp_overflows,
            "For large logits you get nan: exp(100) is beyond float32. Use log_softmax, which subtracts the largest "
            "logit first.",
        ),
        Mistake(
            "in half precision",
            in_its_own_precision,
            "For bfloat16 logits your number is off in the third digit: the sum over the vocabulary was taken with 8 "
            "bits. `logits.float()` first.",
        ),
        Mistake(
            "nothing counted",
            not_refused,
            "With no counted target you give nan, the mean of nothing. It would make every average after it nan, far "
            "from here: raise a ValueError.",
        ),
    ),
)
