r"""A linear layer that is left as it is, with low-rank changes beside it.

    x ----> base (frozen) ----------------------> + ----> out
    |                                             ^
    +----> lora_a (rank, d_in) -> lora_b (d_out, rank) -> * scaling      one such path for each active adapter
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minillm.tuning import low_rank


class LowRank(nn.Module):
    r"""One adapter of one layer: two trained factors, and how much their product counts.

    Args:
        lora_a: (rank, d_in).
        lora_b: (d_out, rank).
        scaling: factor on the change.
        dropout: probability that a feature of the input is dropped on this path, in training.
    Source: Hu et al. 2021, LoRA, section 4.1.
    Lesson: 13.
    """

    def __init__(self, lora_a: Tensor, lora_b: Tensor, scaling: float, dropout: float = 0.0):
        super().__init__()
        self.lora_a, self.lora_b = nn.Parameter(lora_a), nn.Parameter(lora_b)
        self.scaling, self.dropout = scaling, nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "*batch d_in"], out: Float[Tensor, "*batch d_out"], of_base: Tensor, base: nn.Module
    ) -> Float[Tensor, "*batch d_out"]:
        r"""Add the change to what has been computed so far.

        Args:
            x: the layer's input.
            out: what the base and other adapters made of it.
            of_base: what the base alone made of it.
            base: the frozen layer.
        Returns: out with the change.
        """
        return low_rank.lora_forward(self.dropout(x), out, self.lora_a, self.lora_b, self.scaling)

    def merge(self, weight: Float[Tensor, "d_out d_in"], original: Tensor) -> Float[Tensor, "d_out d_in"]:
        r"""The matrix with the change in it.

        Args:
            weight: of the base, perhaps with other adapters in it already.
            original: of the base alone.
        Returns: a new matrix.
        """
        return low_rank.lora_merge(weight, self.lora_a, self.lora_b, self.scaling)


class LoraLinear(nn.Module):
    r"""A frozen linear layer with adapters, of which those that are active are added up.

    Attributes: `adapters`, modules such as `LowRank` by name; `active`, names; with none of them it is the base to the
    last bit. `factor_dtype`: what adapters are trained in, float32 unless the base is float64.

    Args:
        base: `nn.Linear`, or a layer with weights in few bits; it is not copied.
    Source: Hu et al. 2021, LoRA, section 4.1.
    Lesson: 13.
    """

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base
        weight = base.weight  # asked for once: one in few bits has to be restored
        self.d_out, self.d_in = weight.shape
        self.factor_dtype = torch.promote_types(weight.dtype, torch.float32)
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        r"""The matrix that the layer is now, active adapters included, made anew each time it is asked for."""
        return self.merged_weight(self.active)

    @property
    def bias(self) -> Tensor | None:
        r"""The base's."""
        return self.base.bias

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        out = of_base = self.base(x)
        for name in self.active:
            out = self.adapters[name](x, out, of_base, self.base)
        return out

    def add(self, name: str, adapter: nn.Module) -> None:
        r"""Put an adapter beside the others, and make it active.

        Args:
            name: not yet taken here.
            adapter: such as `LowRank`.
        Raises:
            ValueError: if the name is taken, or cannot be one.
        """
        if name in self.adapters:
            raise ValueError(f"name={name!r}: there is an adapter of this name; choose another one")
        if not isinstance(name, str) or not name or "." in name or hasattr(self.adapters, name):
            raise ValueError(f"name={name!r}: cannot be the name of an adapter; use a word such as 'stories'")
        self.adapters[name] = adapter
        self.active = (*self.active, name)

    def merged_weight(self, names: Sequence[str]) -> Float[Tensor, "d_out d_in"]:
        r"""The base's matrix with the changes of some adapters in it.

        Args:
            names: of adapters; those that this layer does not have are passed over.
        Returns: the base's own matrix if there are none, else a new one; dtype of the base's.
        """
        original = weight = self.base.weight
        for name, adapter in self.adapters.items():
            if name in names:
                weight = adapter.merge(weight, original)
        return weight

    def merged(self, names: Sequence[str]) -> nn.Module:
        r"""A plain layer that does what this one does with some adapters.

        Args:
            names: of adapters; those that this layer does not have are passed over.
        Returns: the base itself if there are none, else a new `nn.Linear`, frozen, whose bias is the base's.
        Raises:
            ValueError: if the base's weights are quantized.
        """
        if not any(name in names for name in self.adapters):
            return self.base
        if not isinstance(self.base, nn.Linear):
            raise ValueError(f"model: its base has layers of type {type(self.base).__name__}, and a merged matrix "
                             "would have to be rounded to so few bits again, which takes off most of a small change; "
                             "keep the adapter beside it, or merge into the model in floats and quantize that")
        plain = nn.Linear(self.d_in, self.d_out, bias=self.bias is not None, device="meta")
        with torch.no_grad():
            plain.weight = nn.Parameter(self.merged_weight(names), requires_grad=False)
        if self.bias is not None:
            plain.bias = self.bias
        return plain

    def extra_repr(self) -> str:
        r"""Which adapters are active. Lesson: 13."""
        return f"active={[*self.active]}"


def lora_layers(model: Any) -> dict[str, LoraLinear]:
    r"""The layers of a model that have adapters.

    Args:
        model: any module.
    Returns: layers by name; empty if there are none.
    Lesson: 13.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
