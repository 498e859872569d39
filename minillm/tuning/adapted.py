r"""A frozen layer that others are trained through."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minillm.tuning import low_rank


def adapted_linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, "d_out"] | None,
    lora_a: Float[Tensor, "rank d_in"],
    lora_b: Float[Tensor, "d_out rank"],
    scaling: float,
) -> Float[Tensor, "*batch d_out"]:
    r"""A linear layer with a change beside it: the two factors learn, the layer does not, and gradients pass through.

    Frozen means: no gradient for the weight. The gradient for x must still go through it, or nothing below this layer
    learns. That is why weight and bias are detached, and not what they compute.

    Args:
        x: the layer's input, (..., d_in), float.
        weight: of the frozen layer, (d_out, d_in); it gets no gradient, also where it requires one.
        bias: of the frozen layer, (d_out,), or None; likewise.
        lora_a: (rank, d_in), trained.
        lora_b: (d_out, rank), trained.
        scaling: alpha / rank.
    Returns: (..., d_out).
    Source: Hu et al. 2021, LoRA, section 4.1, of the training that leaves the weight as it is.
    Lesson: 13.
    """
    base = F.linear(x, weight.detach(), bias.detach() if bias is not None else None)
    return low_rank.lora_forward(x, base, lora_a, lora_b, scaling)
