r"""Several small backward passes in place of a big one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Batch = tuple[Tensor, Tensor]


def accumulation_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for scale in (1.0, 1.0, 2.0 ** draw.size(2, 6)):
        vocab_size, seq_len, n_micro = draw.size(4, 7), draw.size(4, 7), draw.size(3, 5)
        micro_batches = [draw_batch(draw, vocab_size, rows, seq_len) for rows in draw.sizes(n_micro, 1, 6)]
        yield (draw.normal(vocab_size, vocab_size), micro_batches, scale), {}
    nothing = (torch.zeros(2, seq_len, dtype=torch.int64), torch.full((2, seq_len), -100))
    yield (draw.normal(vocab_size, vocab_size), [micro_batches[0], nothing, micro_batches[1]], 1.0), {}
    yield (draw.normal(vocab_size, vocab_size), [nothing, nothing], 1.0), {}


def draw_batch(draw: Draw, vocab_size: int, n_rows: int, seq_len: int) -> Batch:
    r"""Rows of unequal lengths: each counts its first few targets only."""
    targets = draw.integers(0, vocab_size - 1, n_rows, seq_len)
    counted = torch.arange(seq_len) < draw.integers(1, seq_len, n_rows, 1)
    return draw.integers(0, vocab_size - 1, n_rows, seq_len), targets.masked_fill(~counted, -100)


def after_training(
    function: Callable[..., Any], table: Tensor, micro_batches: list[Batch], scale: float
) -> dict[str, Any]:
    r"""Run it on the smallest language model, a table of logits, and see what stands in `.grad` on the way."""
    weight, on_the_way = table.clone().requires_grad_(), []

    def mean_loss(token_ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(weight[token_ids].flatten(0, 1), targets.flatten(), ignore_index=-100)

    def after_each() -> None:
        on_the_way.append(torch.zeros_like(table) if weight.grad is None else weight.grad.clone())

    loss, n_targets = function(mean_loss, micro_batches, scale, after_each)
    return {"targets": n_targets, "loss": loss, "loss keeps the graph": loss.requires_grad,
            "gradient": weight.grad, "calls of after_each": len(on_the_way), "gradients on the way": on_the_way}


def in_one_batch(table: Tensor, micro_batches: list[Batch], scale: float) -> dict[str, Any]:
    r"""By the formula for the gradient, probabilities minus one-hot, over all counted targets at once."""
    probabilities = table.double().softmax(-1)
    gradient, nats, n_targets, on_the_way = torch.zeros_like(table).double(), 0.0, 0, []
    counted = sum(int((targets != -100).sum()) for _, targets in micro_batches)
    if counted == 0:
        raise ValueError("micro_batches")
    for token_ids, targets in micro_batches:
        before = n_targets
        for token, target in zip(token_ids.flatten().tolist(), targets.flatten().tolist(), strict=True):
            if target != -100:
                nats -= float(probabilities[token, target].log())
                gradient[token] += scale * probabilities[token] / counted
                gradient[token, target] -= scale / counted
                n_targets += 1
        if n_targets > before:
            on_the_way.append(gradient.float())
    return {"targets": n_targets, "loss": torch.tensor(nats / counted), "loss keeps the graph": False,
            "gradient": gradient.float(), "calls of after_each": len(on_the_way), "gradients on the way": on_the_way}


def with_sums(
    mean_loss: Callable[[Tensor, Tensor], Tensor], micro_batches: Sequence[Batch], scale: float = 1.0,
    after_each: Callable[[], None] = lambda: None,
) -> tuple[Tensor, int]:
    counts = [int((y >= 0).sum()) for _, y in micro_batches]
    if not any(counts):
        raise ValueError("no target")
    nats = 0.0
    for (x, y), n in zip(micro_batches, counts, strict=True):
        if n:
            summed = mean_loss(x, y) * n
            summed.mul(scale / sum(counts)).backward()
            nats += summed.item()
            after_each()
    return torch.tensor(nats / sum(counts)), sum(counts)


def accumulate_by(
    weigh: Callable[[Tensor, Tensor, list[Tensor]], Any] = lambda x, y, ys: (y != -100).sum() / _counted(ys),
    told: Callable[[Tensor, float], Tensor] = lambda share, scale: share.detach(),
    scaled: bool = True,
    skip: bool = True,
    check: bool = True,
    at_once: bool = False,
    count: Callable[[list[Tensor]], int] = lambda ys: _counted(ys),
) -> Callable[..., tuple[Tensor, int]]:
    r"""An accumulate in which one thing is done in another way."""

    def wrong(
        mean_loss: Callable[[Tensor, Tensor], Tensor], micro_batches: Sequence[Batch], scale: float = 1.0,
        after_each: Callable[[], None] = lambda: None,
    ) -> tuple[Tensor, int]:
        all_targets = [targets for _, targets in micro_batches]
        if check and _counted(all_targets) == 0:
            raise ValueError("micro_batches")
        total, waiting = torch.zeros(()), []
        for x, y in micro_batches:
            if skip and not (y != -100).any():
                continue
            share = mean_loss(x, y) * weigh(x, y, all_targets)
            total = total + told(share, scale)
            if at_once:
                waiting.append(share * scale)
                continue
            (share * scale if scaled else share).backward()
            after_each()
        if at_once:
            sum(waiting).backward()
            after_each()
        return total, count(all_targets)

    return wrong


def _counted(all_targets: Sequence[Tensor]) -> int:
    return sum(int((targets != -100).sum()) for targets in all_targets)


ACCUMULATE = Exercise(
    id="training.accumulation.accumulate",
    lesson="08",
    title="A big batch in small pieces",
    task="Make the gradient of one big batch out of several micro-batches. For each pair (token_ids, targets): call "
    "`mean_loss(token_ids, targets)`, weigh it, multiply it by `scale`, call `.backward()`, then `after_each()`. The "
    "gradients add up by themselves.\n\n"
    "The result must be the mean over *all counted targets* (those that are not -100) of all micro-batches. A "
    "micro-batch without any is skipped. Return that mean loss, a scalar without `scale` and without a graph, and the "
    "number of counted targets. None at all is a ValueError.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=84,
    hints=(
        "Micro-batch A has 10 counted targets, B has 2. How much of the mean over all 12 is A's own mean worth?",
        "Count the targets of all micro-batches before the loop. Each weighs count / n_targets.",
        "`share.detach()` is the same number without the graph that led to it.",
        "Why one backward pass each, and not one at the end? Until its backward pass a micro-batch holds all of its "
        "activations; to let go of them is the whole point.",
    ),
    cases=accumulation_cases,
    oracle=in_one_batch,
    probe=after_training,
    other_style=with_sums,
    tolerance=Tolerance(1e-4, 1e-5, "float32 sums over some dozens of targets in another order"),
    mistakes=(
        Mistake(
            "mean of the means",
            accumulate_by(weigh=lambda x, y, ys: 1 / len(ys)),
            "You give every micro-batch the same weight. If their numbers of counted targets differ, a token in a "
            "short one counts for more than a token in a long one. Weigh by counted targets.",
        ),
        Mistake(
            "sum of the means",
            accumulate_by(weigh=lambda x, y, ys: 1.0),
            "You add up the means without weights: with four micro-batches loss and gradient are about four times too "
            "large, and so is the step.",
        ),
        Mistake(
            "padding counted",
            accumulate_by(weigh=lambda x, y, ys: y.numel() / sum(z.numel() for z in ys),
                          count=lambda ys: sum(z.numel() for z in ys)),
            "You count all targets, those of -100 among them. mean_loss has left them out, so they must not weigh "
            "either.",
        ),
        Mistake(
            "weighed by rows",
            accumulate_by(weigh=lambda x, y, ys: len(y) / sum(len(z) for z in ys)),
            "You weigh by the number of rows. Rows are of unequal lengths; what is averaged are targets.",
        ),
        Mistake(
            "scale forgotten",
            accumulate_by(scaled=False),
            "`scale` does not reach the gradient. With fp16 it is what lifts small gradients over the smallest number "
            "that fp16 knows.",
        ),
        Mistake(
            "scale in the loss",
            accumulate_by(told=lambda share, scale: share.detach() * scale),
            "The loss that you return is multiplied by scale. Scale only what goes backward; the number that people "
            "read is the loss itself.",
        ),
        Mistake(
            "one backward at the end",
            accumulate_by(at_once=True),
            "You add up the losses and go backward once. The gradient is right, but all micro-batches keep their "
            "activations until the end, so no memory is saved. Go backward after each, then call after_each.",
        ),
        Mistake(
            "graph kept",
            accumulate_by(told=lambda share, scale: share),
            "The loss that you return still hangs on its graph. Whoever keeps it, in a list of losses say, keeps the "
            "graph. Detach it.",
        ),
        Mistake(
            "empty micro-batch not skipped",
            accumulate_by(skip=False),
            "A micro-batch without a counted target has a mean of 0/0. Even times a weight of 0 that is nan, and all "
            "gradients with it: skip it.",
        ),
        Mistake(
            "nothing to learn from",
            accumulate_by(check=False),
            "If no target counts at all, say so by a ValueError. As it is, the run would go on with steps that learn "
            "nothing.",
        ),
    ),
)
