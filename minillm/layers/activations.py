r"""Activation functions by name."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def gelu_tanh(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""GELU by its tanh approximation: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).

    Args:
        x: any shape, float.
    Returns: the shape and dtype of x; within 0.0005 of the exact x * Phi(x).
    Source: Hendrycks and Gimpel 2016, GELUs, section 2.
    Lesson: 06.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu_squared(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""max(0, x)^2.

    Args:
        x: any shape, float.
    Returns: the shape and dtype of x.
    Source: So et al. 2021, Primer, section 4.
    Lesson: 06.
    """
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_squared": relu_squared,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: gelu_tanh(x),  # looked up when called, so that a learner's version can be switched in
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    r"""The activation function of that name.

    Args:
        name: a key of `ACTIVATIONS`.
    Returns: a function of one tensor.
    Raises:
        ValueError: if the name is unknown; the message lists the names.
    Source: the names are those of Hugging Face's configurations, where they have one.
    Lesson: 06.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: use one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]
