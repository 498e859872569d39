r"""ZeRO: ranks that train one model need not all keep the same optimizer state, gradients and weights.

    a rank keeps                weights    gradients    optimizer state    it sends, in numbers
    0  data parallelism         all        all          all                2 N
    1  + optimizer state        all        all          its share          2 N
    2  + gradients              all        its share    its share          2 N
    3  + weights                its share  its share    its share          3 N

(N numbers in the model; each count of what is sent times (n - 1) / n.) An all-reduce is a reduce-scatter and an
all-gather. Stage 1 slips the optimizer in between: what is gathered is no longer the gradient but the new weights. So
it sends no more than plain data parallelism does.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minillm.training import adamw

STAGES = (0, 1, 2, 3)


def zero_bytes(
    n_parameters: int,
    n_ranks: int,
    stage: int,
    weight_bytes: int = 2,
    gradient_bytes: int = 2,
    optimizer_bytes: int = 12,
) -> dict[str, float]:
    r"""Bytes that one rank keeps for weights, gradients and optimizer state, without activations.

    The defaults are those of mixed precision: weights and gradients in 16 bits, and in float32 the master weights and
    Adam's two averages. With everything in float32 they are 4, 4 and 8: 16 in all too.

    Args:
        n_parameters: numbers in the model.
        n_ranks: how many ranks train it.
        stage: 0 (plain data parallelism) to 3.
        weight_bytes: of one weight.
        gradient_bytes: of one gradient.
        optimizer_bytes: for one weight.
    Returns: bytes for `weights`, `gradients`, `optimizer`, and their `total`.
    Raises:
        ValueError: if stage is not 0, 1, 2 or 3.
    Source: Rajbhandari et al. 2019, ZeRO, section 5 and figure 1.
    Lesson: 08.
    """
    if stage not in STAGES:
        raise ValueError(f"stage={stage}: use 0 (nothing is shared out), 1, 2 or 3")
    sizes = {"weights": (weight_bytes, 3), "gradients": (gradient_bytes, 2), "optimizer": (optimizer_bytes, 1)}
    kept = {
        name: n_parameters * size / (n_ranks if stage >= first_shared else 1)
        for name, (size, first_shared) in sizes.items()
    }
    return {**kept, "total": sum(kept.values())}


def zero1_shard(
    weights: Float[Tensor, "N"],
    grads: Float[Tensor, "N"],
    exp_avg: Float[Tensor, "n"],
    exp_avg_sq: Float[Tensor, "n"],
    step: int,
    learning_rate: float,
    rank: int,
    n_ranks: int,
    reduce_scatter: Callable[[Tensor], Tensor],
    all_gather: Callable[[Tensor], Tensor],
    weight_decay: float = 0.1,
) -> tuple[Float[Tensor, "N"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    r"""One step of AdamW on a rank that keeps the averages of its own share of the weights only.

    The N numbers, with zeros added at the end, are cut into n_ranks shares of n. Each rank takes its share of the
    summed gradient, moves its share of the weights, and then all put their shares together.

    Args:
        weights: all of them, the same on every rank, (N,), float.
        grads: this rank's own gradient, (N,); the sum over ranks is the gradient of the batch.
        exp_avg: average of gradients for this rank's share, (n,), where n = N / n_ranks, rounded up.
        exp_avg_sq: average of their squares, (n,).
        step: number of this step, from 1.
        learning_rate: size of a step.
        rank: of this process, from 0; its share begins at rank * n.
        n_ranks: how many there are.
        reduce_scatter: (n_ranks * n,) -> (n,): adds up over all ranks and gives this rank its share of the sum.
        all_gather: (n,) -> (n_ranks * n,): gives every rank the shares of all, in the order of the ranks.
        weight_decay: pull towards zero, as a multiple of the learning rate.
    Returns: all new weights (N,), and the two new averages of this rank's share (n,); new tensors.
    Source: Rajbhandari et al. 2019, ZeRO, section 5.1. There in mixed precision, here in float32.
    Lesson: 08.
    """
    n_numbers, size = weights.numel(), exp_avg.numel()
    padding = (0, n_ranks * size - n_numbers)
    own_weights = F.pad(weights, padding)[rank * size : (rank + 1) * size]
    own_grads = reduce_scatter(F.pad(grads, padding))
    own_weights, exp_avg, exp_avg_sq = adamw.adamw_step(
        own_weights, own_grads, exp_avg, exp_avg_sq, step, learning_rate, weight_decay=weight_decay
    )
    return all_gather(own_weights)[:n_numbers], exp_avg, exp_avg_sq


def flat_weights(parameters: list[Tensor]) -> Float[Tensor, "N"]:
    r"""Parameters as one vector.

    Args:
        parameters: of any shapes.
    Returns: (N,), a detached copy.
    Lesson: 08.
    """
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
