r"""Low-rank adaptation: the change of a matrix, written as a product of two thin ones."""

import torch
from jaxtyping import Float
from torch import Tensor


def lora_init(
    d_in: int, d_out: int, rank: int, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    r"""Fresh factors: lora_a at random, lora_b all zeros, so that training begins exactly at the base.

    Were both zero, each factor's gradient, which has the other one in it, would be zero too, and nothing would ever
    be learned.

    Args:
        d_in: features that go into the matrix.
        d_out: features that come out.
        rank: of the change, 1 to min(d_in, d_out).
        generator: source of randomness; None means torch's global one.
    Returns: lora_a (rank, d_in), uniform in +-1/sqrt(d_in), and lora_b (d_out, rank), zeros; float32.
    Raises:
        ValueError: if the rank is out of its range.
    Source: Hu et al. 2021, LoRA, section 4.1; there lora_a is normal, the uniform one is that of the authors' code.
    Lesson: 13.
    """
    if not 1 <= rank <= min(d_in, d_out):
        raise ValueError(f"rank={rank}: use 1 to {min(d_in, d_out)}, the smaller side of a {d_out} x {d_in} matrix")
    lora_a = torch.rand(rank, d_in, generator=generator) * 2 - 1
    return lora_a / d_in**0.5, torch.zeros(d_out, rank)


def lora_forward(
    x: Float[Tensor, "*batch d_in"],
    base: Float[Tensor, "*batch d_out"],
    lora_a: Float[Tensor, "rank d_in"],
    lora_b: Float[Tensor, "d_out rank"],
    scaling: float,
) -> Float[Tensor, "*batch d_out"]:
    r"""What the base says of x, plus the change: base + scaling * (x A^T) B^T.

    Args:
        x: the layer's input, (..., d_in), float.
        base: what the frozen layer makes of it, (..., d_out), float.
        lora_a: (rank, d_in).
        lora_b: (d_out, rank).
        scaling: alpha / rank; with rank-stabilised LoRA alpha / sqrt(rank).
    Returns: (..., d_out), dtype of base.
    Source: Hu et al. 2021, LoRA, equation 3; Kalajdzievski 2023, rsLoRA, for the other scaling.
    Lesson: 13.
    """
    change = (x.to(lora_a.dtype) @ lora_a.T) @ lora_b.T
    return base + (scaling * change).to(base.dtype)


def lora_merge(
    weight: Float[Tensor, "d_out d_in"],
    lora_a: Float[Tensor, "rank d_in"],
    lora_b: Float[Tensor, "d_out rank"],
    scaling: float,
) -> Float[Tensor, "d_out d_in"]:
    r"""The matrix that does both at once: weight + scaling * B A, after which the change costs nothing.

    Args:
        weight: of the base, (d_out, d_in), float.
        lora_a: (rank, d_in).
        lora_b: (d_out, rank).
        scaling: as in `lora_forward`; minus it takes the change out again, up to rounding.
    Returns: (d_out, d_in), dtype of weight; a new matrix.
    Source: Hu et al. 2021, LoRA, section 4.1, "No additional inference latency".
    Lesson: 13.
    """
    return (weight.to(lora_a.dtype) + scaling * (lora_b @ lora_a)).to(weight.dtype)
