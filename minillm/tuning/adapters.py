r"""Adapters: small networks beside or behind the frozen parts of each block.

    behind (Houlsby)                         beside (parallel)
    x -> part -> h ----------------> + ->    x ----> part ------------------> + ->
                 |                   ^       |                                ^
                 +-> down -> act -> up       +-> down -> act -> up -> * scale +

Neither can be merged into the part: there is a bend between the two matrices.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minillm.config.require import require
from minillm.layers.activations import activation as activation_by_name
from minillm.tuning.card import signed
from minillm.tuning.swapping import swapped


def bottleneck(
    x: Float[Tensor, "*batch D"],
    down: Float[Tensor, "m D"],
    up: Float[Tensor, "D m"],
    down_bias: Float[Tensor, "m"] | None = None,
    up_bias: Float[Tensor, "D"] | None = None,
    activation: str = "gelu",
) -> Float[Tensor, "*batch D"]:
    r"""up(act(down(x))): what an adapter adds.

    Args:
        x: what it reads, (..., D), float.
        down: (m, D), as in nn.Linear; m is the adapter's width.
        up: (D, m).
        down_bias: (m,); None = none.
        up_bias: (D,); None = none.
        activation: name of the bend between the two.
    Returns: (..., D), dtype of the matrices; zeros if `up` and its bias are zeros.
    Source: Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, section 2.1 and figure 2.
    Lesson: 13.
    """
    h = x.to(down.dtype) @ down.T
    h = h if down_bias is None else h + down_bias
    out = activation_by_name(activation)(h) @ up.T
    return out if up_bias is None else out + up_bias


class Bottleneck(nn.Module):
    r"""An adapter of 2 * D * m + D + m numbers, which adds nothing at first: `up` and the biases are zeros.

    Args:
        d_model: D.
        width: m.
        activation: name of the bend.
        generator: source of randomness for `down`; None means torch's global one.
    Source: Houlsby et al. 2019, section 2.1; there both matrices begin near zero.
    Lesson: 13.
    """

    def __init__(self, d_model: int, width: int, activation: str, generator: torch.Generator | None = None):
        super().__init__()
        self.down = nn.Parameter((torch.rand(width, d_model, generator=generator) * 2 - 1) / d_model**0.5)
        self.up = nn.Parameter(torch.zeros(d_model, width))
        self.down_bias, self.up_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(d_model))
        self.activation = activation

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return bottleneck(x, self.down, self.up, self.down_bias, self.up_bias, self.activation)


class SerialAdapter(nn.Module):
    r"""A part, and behind it an adapter that corrects what it says.

    Args:
        part: frozen; not copied.
        adapter: module (..., D) -> (..., D).
    Source: Houlsby et al. 2019, section 2.1 and figure 2.
    Lesson: 13.
    """

    def __init__(self, part: nn.Module, adapter: nn.Module):
        super().__init__()
        self.part, self.adapter = part, adapter

    def forward(self, x: Float[Tensor, "*batch D_in"]) -> Float[Tensor, "*batch D"]:
        h = self.part(x)
        return h + self.adapter(h).to(h.dtype)


class ParallelAdapter(nn.Module):
    r"""A part, and beside it an adapter that reads the same.

    Args:
        part: frozen; not copied.
        adapter: module (..., D) -> (..., D).
        scale: factor on what the adapter says.
    Source: He et al. 2022, Towards a Unified View of Parameter-Efficient Transfer Learning, section 3.3, "Parallel
        Adapter" and "Scaled PA".
    Lesson: 13.
    """

    def __init__(self, part: nn.Module, adapter: nn.Module, scale: float):
        super().__init__()
        self.part, self.adapter, self.scale = part, adapter, scale

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        h = self.part(x)
        return h + (self.scale * self.adapter(x)).to(h.dtype)


def houlsby_adapters(
    model: nn.Module, width: int = 16, activation: str = "gelu", generator: torch.Generator | None = None
) -> nn.Module:
    r"""A model with an adapter behind the attention and one behind the FFN of every block; they alone are trained.

    Args:
        model: with blocks; not changed, its numbers are shared. At first the tuned model computes the same.
        width: m, of each adapter.
        activation: name of the bend inside.
        generator: source of randomness; None means torch's global one.
    Returns: a new model, called like the old one.
    Raises:
        ValueError: if an argument is out of range.
    Source: Houlsby et al. 2019, section 2.1. There the norms are trained too; here they are the base's and stay.
    Lesson: 13.
    """
    _refuse_bad_settings(width, activation)

    def serial(name: str, module: nn.Module) -> nn.Module | None:
        if not name.endswith((".attn.o_proj", ".ffn")):  # where attention's answer leaves it, and the whole FFN
            return None
        return SerialAdapter(module, _fresh(model, width, activation, generator))

    return signed(swapped(model, serial), model, "houlsby_adapters", width=width, activation=activation)


def parallel_adapters(
    model: nn.Module,
    width: int = 32,
    scale: float = 4.0,
    activation: str = "relu",
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""A model with an adapter beside the FFN of every block; they alone are trained.

    Args:
        model: with blocks; not changed, its numbers are shared. At first the tuned model computes the same.
        width: m, of each adapter.
        scale: factor on what an adapter says, above 0.
        activation: name of the bend inside.
        generator: source of randomness; None means torch's global one.
    Returns: a new model, called like the old one.
    Raises:
        ValueError: if an argument is out of range.
    Source: He et al. 2022, Towards a Unified View of Parameter-Efficient Transfer Learning, sections 3.3 and 4.4.
    Lesson: 13.
    """
    _refuse_bad_settings(width, activation)
    require(0 < scale < float("inf"), "scale", scale, "use a number above 0, such as 4.0")

    def parallel(name: str, module: nn.Module) -> nn.Module | None:
        if not name.endswith(".ffn"):
            return None
        return ParallelAdapter(module, _fresh(model, width, activation, generator), scale)

    tuned = swapped(model, parallel)
    return signed(tuned, model, "parallel_adapters", width=width, scale=scale, activation=activation)


def _refuse_bad_settings(width: int, activation: str) -> None:
    require(isinstance(width, int) and width >= 1, "width", width, "use a whole number of at least 1")
    activation_by_name(activation)


def _fresh(model: nn.Module, width: int, activation: str, generator: torch.Generator | None) -> Bottleneck:
    like = next(model.parameters())
    adapter = Bottleneck(model.config.d_model, width, activation, generator)
    return adapter.to(like.device, torch.promote_types(like.dtype, torch.float32))
