r"""Activation functions: the bends between the two matrices of an FFN, plain and by name."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minillm.layers import paths

QUICK_GELU_BETA = 1.702  # the swish that comes nearest to GELU


def relu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""max(0, x).

    Args:
        x: any shape, float.
    Returns: the shape and dtype of x.
    Source: Nair and Hinton 2010, section 2.
    Lesson: 06.
    """
    return x.clamp(min=0)


def relu_squared(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""max(0, x)^2.

    Args:
        x: any shape, float.
    Returns: the shape and dtype of x.
    Source: So et al. 2021, Primer, section 4.
    Lesson: 06.
    """
    return relu(x).square()


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""x times the probability that a standard normal number is below x: x * Phi(x).

    Args:
        x: any shape, float.
    Returns: the shape and dtype of x.
    Source: Hendrycks and Gimpel 2016, GELUs, section 2.
    Lesson: 06.
    """
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""GELU by its tanh approximation: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).

    Args:
        x: any shape, float.
    Returns: the shape and dtype of x; within 0.0005 of the exact x * Phi(x).
    Source: Hendrycks and Gimpel 2016, GELUs, section 2.
    Lesson: 06.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swish(x: Float[Tensor, "*shape"], beta: float | Float[Tensor, ""] = 1.0) -> Float[Tensor, "*shape"]:
    r"""x * sigmoid(beta * x): x/2 at beta 0, SiLU at 1, close to GELU at 1.702, ReLU in the limit.

    Args:
        x: any shape, float.
        beta: how sharp the bend is; a number, or a tensor that is trained.
    Returns: the shape and dtype of x.
    Source: Ramachandran et al. 2017, Searching for Activation Functions, section 4; beta 1: Elfwing et al. 2017, SiLU.
    Lesson: 06.
    """
    return x * torch.sigmoid(beta * x)


# Name: the plain function, looked up when called so that a learner's can be switched in; and torch's kernel.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]] = {
    "relu": (lambda x: relu(x), F.relu),
    "relu_squared": (lambda x: relu_squared(x), lambda x: F.relu(x).square()),
    "gelu": (lambda x: gelu(x), F.gelu),
    "gelu_tanh": (lambda x: gelu_tanh(x), lambda x: F.gelu(x, approximate="tanh")),
    "quick_gelu": (lambda x: swish(x, QUICK_GELU_BETA), None),
    "silu": (lambda x: swish(x), F.silu),
    "sigmoid": (torch.sigmoid, None),
    "tanh": (torch.tanh, None),
    "identity": (lambda x: x, None),
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    r"""The activation function of that name.

    Args:
        name: a key of `ACTIVATIONS`.
    Returns: a function of one tensor, which calls torch's kernel, or on the plain path the function of this module.
    Raises:
        ValueError: if the name is unknown; the message lists the names.
    Source: the names are those of Hugging Face's configurations, where they have one.
    Lesson: 06.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: use one of {sorted(ACTIVATIONS)}")
    plain, kernel = ACTIVATIONS[name]
    return lambda x: kernel(x) if kernel is not None and paths.use_fused() else plain(x)
