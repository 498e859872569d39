r"""DoRA: the length and the direction of each row of a matrix are tuned apart, the direction with low rank.

    W = length * direction      W' = magnitude * (W + scaling B A) / |W + scaling B A|      row by row
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minillm.tuning import low_rank
from minillm.tuning.lora_linear import LowRank
from minillm.tuning.lora_model import with_adapters


def row_lengths(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out"]:
    r"""The length of each row: of the weights that make one output.

    Args:
        weight: (d_out, d_in), float.
    Returns: (d_out,), dtype of weight.
    Lesson: 13.
    """
    return weight.square().sum(dim=1).sqrt()


class DoraChange(LowRank):
    r"""One adapter of one layer: two thin factors, and a trained length for each row.

    Args:
        base: the frozen layer, for the lengths to begin with; it is not kept.
        lora_a: (rank, d_in).
        lora_b: (d_out, rank).
        scaling: factor on their product.
        dropout: probability that a feature of the input is dropped on the way through the factors, in training.
    Source: Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation, equation 5 (their matrices are transposed, so
        that their columns are our rows).
    Lesson: 13.
    """

    def __init__(self, base: nn.Module, lora_a: Tensor, lora_b: Tensor, scaling: float, dropout: float = 0.0):
        super().__init__(lora_a, lora_b, scaling, dropout)
        self.magnitude = nn.Parameter(row_lengths(base.weight.detach().to(lora_a.dtype)))

    def forward(
        self, x: Float[Tensor, "*batch d_in"], out: Float[Tensor, "*batch d_out"], of_base: Tensor, base: nn.Module
    ) -> Float[Tensor, "*batch d_out"]:
        r"""Add the change to what has been computed so far.

        Args:
            x: the layer's input.
            out: what the base and other adapters made of it.
            of_base: what the base alone made of it.
            base: the frozen layer.
        Returns: out with the change: factor * (W + scaling B A) x - W x.
        """
        factor = self.row_factors(base.weight).to(out.dtype)
        product = of_base if base.bias is None else of_base - base.bias
        direction = low_rank.lora_forward(
            self.dropout(x), torch.zeros_like(out), self.lora_a, self.lora_b, self.scaling)
        return out + (factor - 1) * product + factor * direction

    def merge(self, weight: Float[Tensor, "d_out d_in"], original: Tensor) -> Float[Tensor, "d_out d_in"]:
        r"""The matrix with the change in it.

        Args:
            weight: of the base, perhaps with other adapters in it already.
            original: of the base alone.
        Returns: a new matrix.
        """
        turned = low_rank.lora_merge(original.to(self.lora_a.dtype), self.lora_a, self.lora_b, self.scaling)
        change = self.row_factors(original)[:, None] * turned - original
        return (weight + change).to(weight.dtype)

    def row_factors(self, original: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out"]:
        r"""By how much each row of the changed matrix is stretched.

        Args:
            original: of the base alone.
        Returns: (d_out,), in the factors' type; the length that is divided by counts as a constant, without gradient;
            1 for a row of zeros.
        Source: Liu et al. 2024, DoRA, section 4.3, for the missing gradient, which saves memory.
        """
        with torch.no_grad():
            turned = low_rank.lora_merge(original.to(self.lora_a.dtype), self.lora_a, self.lora_b, self.scaling)
            lengths = row_lengths(turned)
        return torch.where(lengths > 0, self.magnitude / lengths.where(lengths > 0, torch.ones_like(lengths)), 1.0)


def dora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] | None = None,
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    name: str = "default",
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""As `lora_model.lora`, with a trained length for each row of each adapted matrix beside the factors.

    Args:
        model: as in `lora`.
        rank: as in `lora`.
        alpha: as in `lora`.
        targets: as in `lora`.
        dropout: as in `lora`; here on the way through the factors alone.
        rank_stabilized: as in `lora`.
        name: as in `lora`.
        generator: as in `lora`.
    Returns: a new model, called like the old one.
    Raises:
        ValueError: as `lora`.
    Source: Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation, section 4.
    Lesson: 13.
    """
    return with_adapters(DoraChange, "dora", model, targets, generator, rank=rank, alpha=alpha, dropout=dropout,
                         rank_stabilized=rank_stabilized, name=name)
