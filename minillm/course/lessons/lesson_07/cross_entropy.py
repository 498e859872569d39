r"""The loss of a language model."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

MEAN_OF_LOGS = Tolerance(2e-5, 2e-5, "a mean of log-probabilities of scores near 100, where float32 steps by 8e-6")


def loss_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, t, v = draw.sizes(3, 3, 7)
    yield (draw.normal(3, 4), draw.integers(0, 3, 3)), {}
    yield (draw.normal(b, t, v), some_ignored(draw, v, b, t)), {}
    yield (draw.normal(t, v + 4, dtype=torch.float64), draw.integers(0, v + 3, t)), {}
    yield (draw.normal(b, t, 120, dtype=torch.float64), some_ignored(draw, 120, b, t)), {}
    yield (draw.normal(t, v, scale=30.0) + 200.0, draw.integers(0, v - 1, t)), {}  # exp overflows
    far_apart = torch.arange(v) * 60.0  # the right token's probability underflows to 0
    yield (draw.normal(t, v) - far_apart, torch.full((t,), v - 1)), {}


def some_ignored(draw: Draw, vocab_size: int, *shape: int) -> Tensor:
    r"""Targets of which about a third are -100, at least one in the first row and none of the last place."""
    targets = draw.integers(1, vocab_size - 1, *shape)
    ignored = draw.booleans(*shape, share=0.3)
    ignored[0, :2], ignored[:, -1] = True, False
    return targets.masked_fill(ignored, -100)


def loss_by_torch(logits: Tensor, targets: Tensor) -> Tensor:
    flat = logits.double().reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, targets.reshape(-1)).to(logits.dtype)


def loss_by_indexing(logits: Tensor, targets: Tensor) -> Tensor:
    keep = targets != -100
    kept, right = logits[keep], targets[keep]
    return (kept.logsumexp(-1) - kept[torch.arange(len(right)), right]).mean()


def loss_by(
    log_probs: Callable[[Tensor], Tensor] = lambda logits: logits.log_softmax(-1),
    average: Callable[[Tensor, Tensor], Tensor] = lambda nats, counted: (nats * counted).sum() / counted.sum(),
) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A cross-entropy with other log-probabilities, or another average over (surprises, which count)."""

    def wrong(logits: Tensor, targets: Tensor) -> Tensor:
        surprises = -log_probs(logits).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return average(surprises, targets != -100)

    return wrong


def mean_of_row_means(nats: Tensor, counted: Tensor) -> Tensor:
    return ((nats * counted).sum(-1) / counted.sum(-1)).mean()


def shifted_again(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.ndim == 0 or targets.shape[-1] < 2:
        return loss_by()(logits, targets)
    return loss_by()(logits[..., :-1, :], targets[..., 1:])


CROSS_ENTROPY = Exercise(
    id="layers.loss.cross_entropy",
    lesson="07",
    title="Cross-entropy",
    task="Give the mean surprise at the right tokens: minus the log of the probability that softmax of the logits "
    "gives to each target, averaged over the targets that count. A target of -100 does not count. Use your "
    "`log_softmax` of lesson 00, or torch's; `targets` already holds, for each position, the token that comes next.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=71,
    hints=(
        "Three steps: log-probabilities of all tokens; pick one of them at each position; average.",
        "`log_probs.gather(-1, targets[..., None])` picks one number a row. But -100 is no index: `clamp(min=0)` makes "
        "it a harmless one, whose number you throw away afterwards.",
        "Throw away by filling with 0 where `targets == -100`, then sum. By what must you divide the sum: by all "
        "targets, or by those that count?",
    ),
    cases=loss_cases,
    oracle=loss_by_torch,
    other_style=loss_by_indexing,
    tolerance=MEAN_OF_LOGS,
    mistakes=(
        Mistake(
            "ignored targets averaged in",
            loss_by(average=lambda nats, counted: (nats * counted).sum() / counted.numel()),
            "You leave the ignored targets out of the sum, but still divide by the number of all of them. A batch with "
            "much padding would then seem easier: divide by the number of targets that count.",
        ),
        Mistake(
            "-100 forgotten",
            lambda logits, targets: -logits.log_softmax(-1).gather(-1, targets[..., None]).mean(),
            "A target of -100 is used as an index, and there is no such token. Pick from a harmless index there "
            "(`clamp(min=0)`), and leave what was picked out of the mean.",
        ),
        Mistake(
            "-100 forgotten, by indexing",
            lambda logits, targets: (
                -logits.log_softmax(-1).reshape(-1, logits.shape[-1])[torch.arange(targets.numel()), targets.flatten()]
            ).mean(),
            "A target of -100 is used as an index. With a small vocabulary that is an error; with a large one it is "
            "worse, since Python counts it from the end, and a wrong token is learned without a word. Leave these out.",
        ),
        Mistake(
            "-100 counts as token 0",
            loss_by(average=lambda nats, counted: nats.mean()),
            "You let -100 stand for token 0 and keep it in the mean, so the model is taught to say token 0 at every "
            "padding. `clamp` only makes the index harmless: fill what was picked there with 0, and do not count it.",
        ),
        Mistake(
            "sum",
            loss_by(average=lambda nats, counted: (nats * counted).sum()),
            "This is the sum over the targets. Take the mean, or the size of the gradient would depend on the size of "
            "the batch.",
        ),
        Mistake(
            "mean of the rows' means",
            loss_by(average=mean_of_row_means),
            "You average in each row first, then over the rows. A token of a short text then weighs more than one of a "
            "long text: sum over everything, and divide once.",
        ),
        Mistake(
            "log of softmax",
            loss_by(log_probs=lambda logits: logits.softmax(-1).log()),
            "You take the logarithm of a softmax. A probability below about 1e-45 is 0 in float32, and log(0) is -inf: "
            "one badly surprised token makes the whole loss infinite. Use a log_softmax, which never forms the "
            "probability.",
        ),
        Mistake(
            "no maximum subtracted",
            loss_by(log_probs=lambda logits: logits - logits.exp().sum(-1, keepdim=True).log()),
            "The formula is right, but exp overflows for large logits: exp(200) is inf in float32. Subtract the "
            "largest logit of each row first, as your `log_softmax` does.",
        ),
        Mistake(
            "targets shifted",
            shifted_again,
            "You shift the targets against the logits. They have been shifted when the batch was made: `targets[t]` is "
            "the token after position t. Shifted again, the model would learn to predict the token after the next.",
        ),
        Mistake(
            "sign forgotten",
            loss_by(average=lambda nats, counted: -(nats * counted).sum() / counted.sum()),
            "The sign is missing: log-probabilities are negative, and a loss that falls must be *minus* their mean. "
            "Training with this one would make the right tokens ever less likely.",
        ),
        Mistake(
            "bits instead of nats",
            loss_by(average=lambda nats, counted: (nats * counted).sum() / counted.sum() / math.log(2)),
            "Every number is 1.4427 times too large: that is 1 / ln 2, so you measure in bits. The unit here is the "
            "nat: use the natural logarithm.",
        ),
        Mistake(
            "softmax over positions",
            loss_by(log_probs=lambda logits: logits.log_softmax(-2)),
            "Your softmax runs over the positions. At each position the probabilities of all tokens of the vocabulary "
            "must sum to 1: the last dimension.",
        ),
        Mistake(
            "logits not normalized",
            loss_by(log_probs=lambda logits: logits),
            "You take the logit of the right token itself. Without a softmax nothing keeps the logits from simply "
            "growing: what counts is how much likelier the right token is than the others.",
        ),
    ),
)
