r"""ZeRO, stage 1: one rank's step, with the averages of its own share only."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Moved = tuple[Tensor, Tensor, Tensor]
SENT = "what each rank hands to the others"
UNTOUCHED = "the arguments afterwards"
AS_BEFORE, CHANGED = "arguments as before", "an argument has been changed"


def shard_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    r"""Weights, a gradient for each rank, and Adam's averages for all weights."""

    def inputs(n: int, n_ranks: int, step: int, dtype: torch.dtype = torch.float32, **decay: float) -> tuple[Any, Any]:
        weights, exp_avg = draw.normal(n, dtype=dtype), draw.normal(n, dtype=dtype, scale=0.5)
        exp_avg_sq = draw.normal(n, dtype=dtype).square() + 0.5
        if step == 1:
            exp_avg, exp_avg_sq = torch.zeros_like(exp_avg), torch.zeros_like(exp_avg_sq)
        grads, learning_rate = draw.normal(n_ranks, n, dtype=dtype), 0.01 * draw.size(5, 20)
        return (weights, grads, exp_avg, exp_avg_sq, step, learning_rate), {"n_ranks": n_ranks, **decay}

    yield inputs(2 * draw.size(2, 3), 2, 1, weight_decay=0.0)
    yield inputs(2 * draw.size(3, 5) - 1, 2, draw.size(2, 9), weight_decay=0.5)
    yield inputs(3 * draw.size(3, 5) - 2, 3, draw.size(2, 9), torch.float64)
    yield inputs(4 * draw.size(3, 5), 4, draw.size(2, 9), weight_decay=0.3)
    yield inputs(draw.size(20, 24), 1, draw.size(2, 9))


def all_ranks(
    function: Callable[..., Moved],
    weights: Tensor,
    grads: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    learning_rate: float,
    n_ranks: int,
    **decay: float,
) -> dict[str, Any]:
    r"""Let the function be each rank in turn, twice: in the second round each gets what all have gathered."""
    size = -(-weights.numel() // n_ranks)
    pad = (0, n_ranks * size - weights.numel())
    total = F.pad(grads.sum(0), pad)
    gathered, found = torch.zeros(n_ranks * size, dtype=weights.dtype), {}
    for _ in range(2):
        lengths, untouched, shares = [], [], [torch.zeros_like(total[:size])] * n_ranks
        for rank in range(n_ranks):
            own = slice(rank * size, (rank + 1) * size)
            sent: list[str] = []

            def reduce_scatter(x: Tensor, own: slice = own, sent: Any = sent) -> Tensor:
                sent.append(f"reduce_scatter: {x.numel()} numbers")
                return total[own].clone()

            def all_gather(
                x: Tensor, rank: int = rank, sent: Any = sent, shares: Any = shares, gathered: Tensor = gathered
            ) -> Tensor:
                sent.append(f"all_gather: {x.numel()} numbers")
                if x.shape != (size,):
                    raise ValueError(f"all_gather takes one share: ({size},), and got {tuple(x.shape)}")
                shares[rank] = x.detach().clone()
                return gathered.clone()

            given = [weights, grads[rank], F.pad(exp_avg, pad)[own], F.pad(exp_avg_sq, pad)[own]]
            handed = [x.clone() for x in given]
            rest = (step, learning_rate, rank, n_ranks, reduce_scatter, all_gather)
            found[f"rank {rank}"] = function(*handed, *rest, **decay)
            lengths.append(", then ".join(sent))
            same = all(torch.equal(a, b) for a, b in zip(given, handed, strict=True))
            untouched.append(AS_BEFORE if same else CHANGED)
        gathered = torch.cat(shares)
    return {**found, SENT: lengths, UNTOUCHED: untouched}


def nothing_shared_out(
    weights: Tensor, grads: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, learning_rate: float, n_ranks: int,
    weight_decay: float = 0.1,
) -> dict[str, Any]:  # fmt: skip
    r"""torch's AdamW on the whole sum, in float64; then what each rank should hold of it."""
    param = weights.double().requires_grad_()
    optimizer = torch.optim.AdamW([param], learning_rate, (0.9, 0.95), 1e-8, weight_decay)
    averages = {"exp_avg": exp_avg.double().clone(), "exp_avg_sq": exp_avg_sq.double().clone()}
    optimizer.state[param] = {"step": torch.tensor(step - 1.0), **averages}
    param.grad = grads.double().sum(0)
    optimizer.step()
    moved = param.detach().to(weights.dtype)
    size = -(-weights.numel() // n_ranks)
    shares = [
        F.pad(optimizer.state[param][name], (0, n_ranks * size - weights.numel())).to(weights.dtype).split(size)
        for name in averages
    ]
    ranks = {f"rank {rank}": (moved, shares[0][rank], shares[1][rank]) for rank in range(n_ranks)}
    sent = f"reduce_scatter: {n_ranks * size} numbers, then all_gather: {size} numbers"
    return {**ranks, SENT: [sent] * n_ranks, UNTOUCHED: [AS_BEFORE] * n_ranks}


def moved_by_hand(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, learning_rate: float, decay: float
) -> Moved:
    m, v = torch.lerp(grad, exp_avg, 0.9), torch.lerp(grad**2, exp_avg_sq, 0.95)
    root = (v / (1 - 0.95**step)) ** 0.5
    return param - learning_rate * (decay * param + m / (1 - 0.9**step) / (root + 1e-8)), m, v


def shard_by(
    grad: Callable[..., Tensor] = lambda padded, own, n_ranks, reduce_scatter: reduce_scatter(padded),
    share: Callable[[Tensor, int, int, int], Tensor] = lambda x, rank, size, n_ranks: x.view(n_ranks, size)[rank],
    together: Callable[..., Tensor] = lambda new, old, padded, own, all_gather: all_gather(new),
    pad: Callable[[Tensor, int], Tensor] = lambda x, missing: torch.cat([x, x.new_zeros(missing)]),
    cut: Callable[[Tensor, int], Tensor] = lambda x, n: x[:n],
    count: Callable[[int], int] = lambda step: step,
    decay: Callable[[float], float] = lambda decay: decay,
    averages: Callable[[list[Tensor], list[Tensor]], list[Tensor]] = lambda new, old: new,
) -> Callable[..., Moved]:
    r"""A rank that does one thing in another way."""

    def rank_step(
        weights: Tensor, grads: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, learning_rate: float,
        rank: int, n_ranks: int, reduce_scatter: Callable[[Tensor], Tensor], all_gather: Callable[[Tensor], Tensor],
        weight_decay: float = 0.1,
    ) -> Moved:  # fmt: skip
        n, size = weights.numel(), exp_avg.numel()
        missing, own = n_ranks * size - n, slice(rank * size, (rank + 1) * size)
        padded = pad(weights, missing)
        old = share(padded, rank, size, n_ranks)
        summed = grad(pad(grads, missing), own, n_ranks, reduce_scatter)
        new, *moved = moved_by_hand(old, summed, exp_avg, exp_avg_sq, count(step), learning_rate, decay(weight_decay))
        return cut(together(new, old, padded, own, all_gather), n), *averages(moved, [exp_avg, exp_avg_sq])

    return rank_step


def own_place_only(new: Tensor, old: Tensor, padded: Tensor, own: slice, all_gather: Any) -> Tensor:
    return torch.cat([padded[: own.start], new, padded[own.stop :]])


def written_over(new: list[Tensor], old: list[Tensor]) -> list[Tensor]:
    return [before.copy_(after) for before, after in zip(old, new, strict=True)]


ZERO1_SHARD = Exercise(
    id="training.zero.zero1_shard",
    lesson="08",
    title="ZeRO, stage 1: a share of the optimizer",
    task="You are one of `n_ranks`. Every rank has all N weights, and a gradient from its own rows. The N numbers, "
    "with zeros added at the end where n_ranks does not divide N, are cut into `n_ranks` shares of n; the share of "
    "rank r begins at number r · n. You keep Adam's averages for your own share only: `exp_avg` and `exp_avg_sq` have "
    "n numbers.\n\n"
    "Take a step of AdamW (`adamw_step` of this lesson, with its own betas and eps) on your share of the weights, "
    "with your share of the *summed* gradient; then let all ranks have all the new weights. Two functions talk to the "
    "others: `reduce_scatter` takes a vector of n_ranks · n numbers, adds it up over all ranks and gives you your "
    "share of the sum; `all_gather` takes your share of something and gives you the shares of all, one after the "
    "other. Call each once. Return all N new weights, and your two new averages.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=86,
    hints=(
        "Draw it for 2 ranks and 5 weights. n is 3, one zero is added, and rank 1 owns weights 3, 4 and the zero.",
        "Four steps: pad, `reduce_scatter`, `adamw_step`, `all_gather`. The last gives the padding too: cut it off.",
        "n is `exp_avg.numel()`. `F.pad(x, (0, k))` adds k zeros at the end.",
        "What is gathered is the *weights*, after the step. The gradients of the other shares never come to you.",
    ),
    cases=shard_cases,
    oracle=nothing_shared_out,
    other_style=shard_by(),
    probe=all_ranks,
    tolerance=Tolerance(2e-5, 2e-6, "the sum over ranks and Adam's quotient, in float32"),
    mistakes=(
        Mistake(
            "own gradient only",
            shard_by(grad=lambda padded, own, n_ranks, reduce_scatter: padded[own]),
            "You use your own gradient. It comes from your own rows alone, and the others' rows are lost for your "
            "share: `reduce_scatter` adds up over all ranks.",
        ),
        Mistake(
            "mean over ranks",
            shard_by(grad=lambda padded, own, n_ranks, reduce_scatter: reduce_scatter(padded) / n_ranks),
            "You divide the sum by n_ranks. The ranks' gradients are parts of one gradient, weighed by their targets: "
            "the *sum* is the gradient of the batch. Adam's step hardly notices, since it divides by the gradient's "
            "size; the averages do, and so does clipping.",
        ),
        Mistake(
            "first share on every rank",
            shard_by(share=lambda x, rank, size, n_ranks: x[:size]),
            "Every rank moves the first share of the weights. Yours begins at rank * n.",
        ),
        Mistake(
            "every n-th number",
            shard_by(share=lambda x, rank, size, n_ranks: x[rank::n_ranks]),
            "You take every n_ranks-th weight. `reduce_scatter` gives you a *stretch* of the gradient, and "
            "`all_gather` puts stretches one after the other: weights meet the gradients of others.",
        ),
        Mistake(
            "not gathered",
            shard_by(together=own_place_only),
            "Only your own share of the weights is new; the rest is as old as before. After a few steps every rank has "
            "another model. `all_gather` the new shares.",
        ),
        Mistake(
            "old weights gathered",
            shard_by(together=lambda new, old, padded, own, all_gather: all_gather(old)),
            "You gather the weights from before the step: nobody ever learns anything. First `adamw_step`, then "
            "`all_gather` its result.",
        ),
        Mistake(
            "padding returned",
            shard_by(cut=lambda x, n: x),
            "The zeros that were added come back as weights. Cut the result to the N numbers that there were.",
        ),
        Mistake(
            "padded in front",
            shard_by(pad=lambda x, missing: F.pad(x, (missing, 0)), cut=lambda x, n: x[-n:]),
            "You add the zeros in front. Then all shares shift, and the averages belong to other weights than the "
            "gradients. `F.pad(x, (0, k))` adds at the end.",
        ),
        Mistake(
            "old averages returned",
            shard_by(averages=lambda new, old: old),
            "You return the averages that you were given. Adam would begin anew in each step: return the new ones.",
        ),
        Mistake(
            "averages overwritten",
            shard_by(averages=written_over),
            "You write the new averages into the arguments. Return new tensors: whoever called you may still need the "
            "old ones, to take the step back, say.",
        ),
        Mistake(
            "always the first step",
            shard_by(count=lambda step: 1),
            "You take every step as the first. `step` tells adamw_step how far the averages have filled up; with 1 it "
            "corrects them far too much.",
        ),
        Mistake(
            "weight decay not handed on",
            shard_by(decay=lambda decay: 0.1),
            "`weight_decay` does not reach adamw_step, which then takes its default.",
        ),
    ),
)
