r"""The loss of a language model."""

from jaxtyping import Float, Int
from torch import Tensor

from minillm.layers import softmax

IGNORED = -100


def cross_entropy(logits: Float[Tensor, "*batch V"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, ""]:
    r"""Minus the mean log-probability of the right tokens, in nats.

    Args:
        logits: (..., V), float.
        targets: (...), int64; -100 marks a place without loss.
    Returns: a scalar, dtype of logits; nan if no target counts.
    Source: Goodfellow et al. 2016, Deep Learning, sections 3.13 and 5.5.
    Lesson: 07.
    """
    counted = targets != IGNORED
    log_probs = softmax.log_softmax(logits, dim=-1)
    right = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -right.masked_fill(~counted, 0.0).sum() / counted.sum()
