r"""QLoRA: low-rank changes over a model whose frozen matrices are held in 4 bits."""

from collections.abc import Sequence

import torch
from torch import nn

from minillm.inference.quantization.convert import is_quantized
from minillm.inference.quantization.nf4_linear import Nf4Linear
from minillm.tuning.card import signed
from minillm.tuning.lora_model import NOT_BY_ITSELF, lora
from minillm.tuning.swapping import swapped


def qlora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] | None = None,
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    name: str = "default",
    group_size: int = 64,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""A model whose linear layers lie in NF4, with low-rank adapters in floats, which alone are trained.

    At first it computes what the model computes after that rounding. To save the memory, let go of the model that was
    given: what this one does not quantize (embedding, head, norms) it shares with it.

    Args:
        model: one of ours, in floats and untuned; not changed.
        rank: as in `lora`.
        alpha: as in `lora`.
        targets: as in `lora`; the base is quantized in all linear layers of the blocks, whichever are adapted.
        dropout: as in `lora`.
        rank_stabilized: as in `lora`.
        name: of the adapter.
        group_size: weights that share a scale; must divide the count of each matrix.
        generator: as in `lora`.
    Returns: a new model, called like the old one.
    Raises:
        ValueError: if the model is quantized or tuned already, the group size does not fit, or as in `lora`.
    Source: Dettmers et al. 2023, QLoRA, section 3.
    Lesson: 13.
    """
    if is_quantized(model) or hasattr(model, "card"):
        raise ValueError("model: is quantized or tuned already; give qlora the plain model in floats, and other "
                         "methods what it makes")
    chosen = {"rank": rank, "alpha": alpha, "dropout": dropout, "rank_stabilized": rank_stabilized, "name": name}
    tuned = lora(with_nf4_base(model, group_size), targets=targets, generator=generator, **chosen)
    return signed(tuned, model, "qlora", targets=tuned.card.settings["targets"], group_size=group_size, **chosen)


def with_nf4_base(model: nn.Module, group_size: int = 64) -> nn.Module:
    r"""A frozen model whose linear layers in the blocks lie in NF4 with double quantization.

    Args:
        model: one of ours, in floats; not changed.
        group_size: weights that share a scale.
    Returns: a new model; what is not quantized it shares with the old one.
    Raises:
        ValueError: if there is no such layer, or the group size does not fit one; the message names it.
    Source: Dettmers et al. 2023, QLoRA, section 3; the embedding and the head stay floats, as in the authors' code.
    Lesson: 13.
    """
    def quantized(path: str, module: nn.Module) -> nn.Module | None:
        *above, last = path.split(".")
        if type(module) is not nn.Linear or "blocks" not in above or last in NOT_BY_ITSELF:
            return None
        try:
            return Nf4Linear.from_weight(module.weight, module.bias, group_size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    return swapped(model, quantized)
