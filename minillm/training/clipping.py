r"""One bad batch must not undo a thousand good ones: bound the length of the gradient."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def global_norm(grads: Sequence[Tensor]) -> Float[Tensor, ""]:
    r"""The length of all gradients taken as one long vector.

    Args:
        grads: float tensors of any shapes; at least one.
    Returns: a scalar, float32.
    Lesson: 08.
    """
    return torch.stack([torch.linalg.vector_norm(grad.float()) for grad in grads]).norm()


def clip_by_norm(grads: Sequence[Tensor], max_norm: int | float) -> tuple[list[Tensor], Float[Tensor, ""]]:
    r"""Shrink the gradients together, so that their common length is at most `max_norm`; the direction stays.

    Args:
        grads: float tensors of any shapes; at least one.
        max_norm: above 0; `math.inf` = change nothing.
    Returns: the clipped gradients, new tensors with the dtypes of grads, and the length before clipping.
    Raises:
        ValueError: if max_norm is not above 0.
    Source: Pascanu et al. 2013, section 3.2, algorithm 1.
    Lesson: 08.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm={max_norm}: use a number above 0, or math.inf for no clipping")
    norm = global_norm(grads)
    factor = (max_norm / norm).clamp(max=1.0)  # norm 0: infinity, clamped to 1
    return [(grad * factor).to(grad.dtype) for grad in grads], norm
