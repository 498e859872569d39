r"""Tensor parallelism: one rank's part of an MLP."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Act = Callable[[Tensor], Tensor]
SUMS = "what each rank hands to all_reduce"
ROUNDS = 3  # a function that adds up twice has its second sum right in the third round


def mlp_split_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    r"""An MLP, how many ranks share it, and an activation."""

    def inputs(n_ranks: int, f: int, act: Act, *batch: int, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
        d = draw.size(3, 6)
        shapes = ((*batch, d), (f, d), (f,), (d, f), (d,))
        return tuple(draw.normal(*shape, dtype=dtype) for shape in shapes), {"n_ranks": n_ranks, "act": act}

    yield inputs(2, 2 * draw.size(2, 4), F.gelu, 2)
    yield inputs(3, 3 * draw.size(2, 4), torch.tanh, 2, draw.size(3, 4), dtype=torch.float64)
    yield inputs(4, 4 * draw.size(2, 4), F.silu, draw.size(3, 5))
    yield inputs(1, draw.size(20, 24), F.silu, 2, 3)
    n_ranks = draw.size(2, 4)
    yield inputs(n_ranks, 4 * n_ranks + 1, F.gelu, 2)


def every_rank(
    function: Callable[..., Tensor],
    x: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    n_ranks: int,
    act: Act,
) -> dict[str, Any]:
    r"""Let the function be each rank in turn; what it hands to all_reduce in one round is added up for the next."""
    before: list[list[Tensor]] = [[] for _ in range(n_ranks)]
    found: dict[str, Any] = {}
    for _ in range(ROUNDS):
        now: list[list[Tensor]] = [[] for _ in range(n_ranks)]
        for rank in range(n_ranks):

            def all_reduce(part: Tensor, own: list[Tensor] = now[rank], before: list[list[Tensor]] = before) -> Tensor:
                place = len(own)
                own.append(part.detach().clone())
                parts = [parts[place] for parts in before if len(parts) > place]
                return torch.stack(parts).sum(0) if parts else torch.zeros_like(part)

            weights = (part.clone() for part in (x, up_weight, up_bias, down_weight, down_bias))
            found[f"rank {rank}"] = function(*weights, rank, n_ranks, act, all_reduce)
        before = now
    return {**found, SUMS: ["; ".join(f"a tensor {tuple(part.shape)}" for part in parts) for parts in before]}


def mlp_in_one_place(
    x: Tensor, up_weight: Tensor, up_bias: Tensor, down_weight: Tensor, down_bias: Tensor, n_ranks: int, act: Act
) -> dict[str, Any]:
    if up_weight.shape[0] % n_ranks:
        raise ValueError("n_ranks")
    up, down = (up_weight.double(), up_bias.double()), (down_weight.double(), down_bias.double())
    out = F.linear(act(F.linear(x.double(), *up)), *down).to(x.dtype)
    return {**{f"rank {rank}": out for rank in range(n_ranks)}, SUMS: [f"a tensor {tuple(x.shape)}"] * n_ranks}


def one_feature_at_a_time(
    x: Tensor, up_weight: Tensor, up_bias: Tensor, down_weight: Tensor, down_bias: Tensor, rank: int, n_ranks: int,
    act: Act, all_reduce: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    r"""One hidden feature after the other; the bias of the second matrix is added by rank 0, before the sum."""
    per_rank, rest = divmod(len(up_bias), n_ranks)
    if rest:
        raise ValueError(f"n_ranks={n_ranks} does not divide {len(up_bias)}")
    out = torch.zeros_like(x) + (down_bias if rank == 0 else 0.0)
    for i in range(rank * per_rank, (rank + 1) * per_rank):
        out = out + act((x * up_weight[i]).sum(-1, keepdim=True) + up_bias[i]) * down_weight[:, i]
    return all_reduce(out)


def stretch(n: int, rank: int, n_ranks: int) -> list[int]:
    return list(range(n))[rank * (n // n_ranks) : (rank + 1) * (n // n_ranks)]


def split_by(
    up: Callable[[int, int, int], list[int]] = stretch,
    down: Callable[[int, int, int], list[int]] = stretch,
    add_up: Callable[..., Tensor] = lambda part, bias, n_ranks, all_reduce: all_reduce(part) + bias,
    up_bias_counts: bool = True,
    refuse: bool = True,
) -> Callable[..., Tensor]:
    r"""A rank that takes other hidden features, or adds up in another way."""

    def rank_part(
        x: Tensor, up_weight: Tensor, up_bias: Tensor, down_weight: Tensor, down_bias: Tensor, rank: int,
        n_ranks: int, act: Act, all_reduce: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        n = len(up_bias)
        if refuse and n % n_ranks:
            raise ValueError(f"n_ranks={n_ranks} does not divide {n}")
        rows, columns = up(n, rank, n_ranks), down(n, rank, n_ranks)
        hidden = act(F.linear(x, up_weight[rows], up_bias[rows] if up_bias_counts else None))
        return add_up(hidden @ down_weight[:, columns].T, down_bias, n_ranks, all_reduce)

    return rank_part


def other_way_round(sum_before_act: bool) -> Callable[..., Tensor]:
    r"""The first matrix split by input features: each rank has a summand of every hidden feature."""

    def rank_part(
        x: Tensor, up_weight: Tensor, up_bias: Tensor, down_weight: Tensor, down_bias: Tensor, rank: int,
        n_ranks: int, act: Act, all_reduce: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        if len(up_bias) % n_ranks:
            raise ValueError(f"n_ranks={n_ranks} does not divide {len(up_bias)}")
        part = x.tensor_split(n_ranks, -1)[rank] @ up_weight.tensor_split(n_ranks, 1)[rank].T
        own = stretch(len(up_bias), rank, n_ranks)
        hidden = act((all_reduce(part) if sum_before_act else part) + up_bias)
        return all_reduce(hidden[..., own] @ down_weight[:, own].T) + down_bias

    return rank_part


MLP_SHARD = Exercise(
    id="training.tensor_parallel.mlp_shard",
    lesson="08",
    title="One rank's part of an MLP",
    task="You are one of `n_ranks` that share an MLP, down(act(up(x))). Its F hidden features are split: rank r has "
    "those from r · F / n_ranks on, and the parts of both matrices that belong to them. (You are handed the whole "
    "matrices; use your own part only. Weights have the shape (d_out, d_in), as in nn.Linear.) Compute what your "
    "features contribute to the output. `all_reduce(part)` adds up over all ranks and gives everybody the sum; it is "
    "the expensive part, so call it once. Return the MLP's output. If n_ranks does not divide F, raise a ValueError.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=87,
    hints=(
        "Draw an MLP with 4 hidden features and give two of them to each rank. Which *rows* of `up_weight` make your "
        "two? Which *columns* of `down_weight` read them?",
        "The activation works on each hidden feature alone. You have all of yours, so it needs nobody else.",
        "What you have after the second matrix is a summand of the output.",
        "Each bias belongs to the output once. Where must `down_bias` stand, before or after the sum over ranks?",
    ),
    cases=mlp_split_cases,
    oracle=mlp_in_one_place,
    other_style=one_feature_at_a_time,
    probe=every_rank,
    tolerance=Tolerance(5e-5, 1e-5, "float32 sums taken in another order"),
    mistakes=(
        Mistake(
            "bias on every rank",
            split_by(add_up=lambda part, bias, n_ranks, all_reduce: all_reduce(part + bias)),
            "`down_bias` is in the output n_ranks times: every rank adds it to its summand. Add it after the sum, or "
            "on one rank only. With one rank the bug is invisible.",
        ),
        Mistake(
            "not added up",
            split_by(add_up=lambda part, bias, n_ranks, all_reduce: part + bias),
            "You return your own summand. The features of the other ranks contribute too: `all_reduce` adds up.",
        ),
        Mistake(
            "mean over ranks",
            split_by(add_up=lambda part, bias, n_ranks, all_reduce: all_reduce(part) / n_ranks + bias),
            "You average over the ranks. They hold different hidden features of one MLP, not copies of it: the output "
            "is the sum.",
        ),
        Mistake(
            "split by inputs",
            other_way_round(sum_before_act=False),
            "You split the first matrix by its *input* features. Then each rank has only a summand of every hidden "
            "feature, and act(a + b) is not act(a) + act(b). Split it so that each rank has some hidden features "
            "whole.",
        ),
        Mistake(
            "two sums",
            other_way_round(sum_before_act=True),
            "The output is right, but you add up over the ranks twice. Split by input features, the first matrix needs "
            "a sum before the activation, of the wide hidden layer. Split it by hidden features, and that sum is gone.",
        ),
        Mistake(
            "different features",
            split_by(up=lambda n, rank, n_ranks: list(range(n))[rank::n_ranks]),
            "The rows that you take of `up_weight` and the columns of `down_weight` belong to different hidden "
            "features: every n_ranks-th, and a stretch. Any split will do, but it must be the same for both.",
        ),
        Mistake(
            "rank ignored",
            split_by(*[lambda n, rank, n_ranks: stretch(n, 0, n_ranks)] * 2),
            "Every rank computes the first part. Yours begins at rank * F / n_ranks.",
        ),
        Mistake(
            "everything on every rank",
            split_by(*[lambda n, rank, n_ranks: list(range(n))] * 2, add_up=lambda part, bias, *_: part + bias),
            "The output is right, because every rank computes the whole MLP. Nothing is split: no memory and no time "
            "is saved. Use your own F / n_ranks hidden features.",
        ),
        Mistake(
            "no first bias",
            split_by(up_bias_counts=False),
            "`up_bias` is missing. Each hidden feature has its own number of it: take those of your features.",
        ),
        Mistake(
            "no second bias",
            split_by(add_up=lambda part, bias, n_ranks, all_reduce: all_reduce(part)),
            "`down_bias` is missing. It comes once, after the sum over ranks.",
        ),
        Mistake(
            "rest dropped",
            split_by(refuse=False),
            "If n_ranks does not divide F, the last hidden features belong to nobody, and nobody notices. Raise a "
            "ValueError.",
        ),
    ),
)
