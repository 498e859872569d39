r"""Softmax and its logarithm, safe for large numbers."""

from jaxtyping import Float
from torch import Tensor


def softmax(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
    r"""Turn scores into probabilities: softmax(x)_i = exp(x_i) / sum_j exp(x_j).

    Subtracting the largest score changes nothing in the result, since it cancels, but keeps exp from overflowing.

    Args:
        x: scores, any shape, float; -inf means probability 0.
        dim: the dimension along which the results sum to 1.
    Returns: the shape and dtype of x.
    Source: Goodfellow et al. 2016, Deep Learning, section 4.1.
    Lesson: 00.
    """
    exp = (x - x.amax(dim=dim, keepdim=True)).exp()
    return exp / exp.sum(dim=dim, keepdim=True)


def log_softmax(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
    r"""The logarithm of softmax without ever computing a softmax: x_i - log sum_j exp(x_j).

    Taking the logarithm afterwards would meet log(0) = -inf as soon as one probability underflows.

    Args:
        x: scores, any shape, float.
        dim: the dimension along which exp(result) sums to 1.
    Returns: log-probabilities in nats, the shape and dtype of x.
    Source: Goodfellow et al. 2016, Deep Learning, sections 4.1 and 6.2.2.3.
    Lesson: 00.
    """
    shifted = x - x.amax(dim=dim, keepdim=True)
    return shifted - shifted.exp().sum(dim=dim, keepdim=True).log()
