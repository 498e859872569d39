r"""A batch larger than memory: several small backward passes that add up to the big one."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.layers import fused, loss, paths

MicroBatch = tuple[Tensor, Tensor]


def count_targets(targets: Int[Tensor, "B T"]) -> int:
    r"""How many targets the loss counts: all that are not -100.

    Args:
        targets: (B, T), int64.
    Returns: the number.
    Lesson: 08.
    """
    return int((targets != loss.IGNORED).sum())


def batch_loss(
    model: Callable[[Tensor], Tensor], token_ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    r"""The mean loss over the counted targets of one batch, in float32 whatever the model computes in.

    Args:
        model: token ids -> logits, (B, T) -> (B, T, V).
        token_ids: (B, T), int64.
        targets: (B, T), int64; -100 = not counted.
    Returns: a scalar, nats a token; nan if no target counts.
    Lesson: 08.
    """
    cross_entropy = fused.fused_cross_entropy if paths.use_fused() else loss.cross_entropy
    return cross_entropy(model(token_ids).float(), targets)


def accumulate(
    mean_loss: Callable[[Tensor, Tensor], Tensor],
    micro_batches: Sequence[MicroBatch],
    scale: float = 1.0,
    after_each: Callable[[], None] = lambda: None,
) -> tuple[Float[Tensor, ""], int]:
    r"""Backpropagate the mean loss over all targets of all micro-batches, one micro-batch at a time.

    Each micro-batch weighs as much as it has targets. (The mean of the means would be wrong: it gives a token of a
    short micro-batch more weight than one of a long micro-batch.) The gradients add up in the parameters' `.grad`.

    Args:
        mean_loss: (token_ids, targets) -> mean loss over this micro-batch's counted targets.
        micro_batches: pairs (token_ids, targets), each (B, T), int64; at least one counted target in all.
        scale: factor on the loss that is backpropagated; the returned loss is without it.
        after_each: called after each backward pass.
    Returns: the mean loss over all counted targets (a scalar, detached), and their number.
    Raises:
        ValueError: if no target counts.
    Source: Ott et al. 2018, Scaling Neural Machine Translation, who add up the gradients of several sub-batches.
    Lesson: 08.
    """
    counts = [count_targets(targets) for _, targets in micro_batches]
    n_targets = sum(counts)
    if n_targets == 0:
        raise ValueError("micro_batches hold no counted target: every target is -100; use batches with text in them")
    total = torch.zeros(())
    for (token_ids, targets), count in zip(micro_batches, counts, strict=True):
        if count == 0:
            continue  # its mean would be 0 / 0
        share = mean_loss(token_ids, targets) * (count / n_targets)
        (share * scale).backward()
        total = total.to(share.device) + share.detach()
        after_each()
    return total, n_targets
