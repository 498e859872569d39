r"""From scaled fp16 gradients to the ones that the optimizer gets: first unscale, then clip."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from minillm.training import clipping, precision


def unscale_and_clip(
    grads: Sequence[Tensor], loss_scale: int | float, max_norm: int | float
) -> tuple[list[Tensor], Float[Tensor, ""], bool]:
    r"""Divide gradients by the loss scale, in float32, see whether they are whole, and bound their length.

    Args:
        grads: of the scaled loss, float tensors of any shapes; at least one.
        loss_scale: what the loss was multiplied by; above 0.
        max_norm: bound on the length of the unscaled gradient, above 0.
    Returns: new gradients in float32, their length before clipping and without the scale, and whether one of the
        numbers was inf or nan, so that this step must be left out.
    Raises:
        ValueError: if loss_scale or max_norm is not above 0.
    Source: Micikevicius et al. 2017, section 3.2, on the order of unscaling and clipping.
    Lesson: 08.
    """
    if not loss_scale > 0:
        raise ValueError(f"loss_scale={loss_scale}: use a number above 0; 1 = the loss was not scaled")
    unscaled = [grad.float() / loss_scale for grad in grads]
    clipped, norm = clipping.clip_by_norm(unscaled, max_norm)
    return clipped, norm, not precision.all_finite(unscaled)
