r"""LoRA for a whole model: which layers get an adapter, which adapters are switched on, and how they are merged."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn

from minillm.config.require import require
from minillm.tuning import low_rank
from minillm.tuning.card import signed, unsigned
from minillm.tuning.lora_linear import LoraLinear, LowRank, lora_layers
from minillm.tuning.swapping import swapped

MERGEABLE = ("lora", "dora")  # methods whose modules are all in LoraLinears
NOT_BY_ITSELF = ("router",)  # of a mixture of experts: changes of it are asked for by name


def lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] | None = None,
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    name: str = "default",
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""A model whose linear layers have low-rank adapters, which alone are trained.

    At first it computes what the model computes, to the last bit. Called on a model that has adapters already it adds
    another beside them: what was active stays so, but only the new one is trained.

    Args:
        model: one of ours, in floats or with weights in few bits; not changed, its numbers are shared.
        rank: of each change.
        alpha: the change is multiplied by alpha / rank.
        targets: which linear layers of the blocks: last names ("q_proj"), or longer ends of names ("ffn.up_proj",
            "blocks.0.attn.q_proj"); None = all, but for the routers of experts.
        dropout: on the adapters' inputs, in training.
        rank_stabilized: multiply by alpha / sqrt(rank) instead (rsLoRA).
        name: of the adapter.
        generator: source of randomness for the fresh factors; None = torch's global one.
    Returns: a new model, called like the old one.
    Raises:
        ValueError: if a target is not there, the rank is too high for a layer, or another argument is out of range.
    Source: Hu et al. 2021, LoRA; Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA.
    Lesson: 13.
    """
    return with_adapters(_low_rank, "lora", model, targets, generator, rank=rank, alpha=alpha, dropout=dropout,
                         rank_stabilized=rank_stabilized, name=name)


def with_adapters(
    make: Callable[..., nn.Module],
    method: str,
    model: nn.Module,
    targets: Sequence[str] | None,
    generator: torch.Generator | None,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    rank_stabilized: bool,
    name: str,
) -> nn.Module:
    r"""What `lora` does, with adapters of any kind that have two thin factors.

    Args:
        make: (base layer, lora_a, lora_b, scaling, dropout) -> the adapter of one layer.
        method: its name on the card.
        model: as in `lora`.
        targets: as in `lora`.
        generator: as in `lora`.
        rank: as in `lora`.
        alpha: as in `lora`.
        dropout: as in `lora`.
        rank_stabilized: as in `lora`.
        name: as in `lora`.
    Returns: a new model.
    Raises:
        ValueError: as `lora`.
    Lesson: 13.
    """
    require(isinstance(rank, int) and rank >= 1, "rank", rank, "use a whole number of at least 1")
    require(0 < alpha < math.inf, "alpha", alpha, "use a number above 0, such as 16.0")
    require(0 <= dropout < 1, "dropout", dropout, "use a probability in [0, 1)")
    chosen = target_layers(model, targets)
    scaling = alpha / (rank**0.5 if rank_stabilized else rank)

    def adapted_layer(path: str, module: nn.Module) -> nn.Module | None:
        if path not in chosen:
            return None
        layer = module if isinstance(module, LoraLinear) else LoraLinear(module)
        layer.add(name, make(layer.base, *fresh_factors(layer, path, rank, generator), scaling, dropout))
        return layer

    targets = targets or list(dict.fromkeys(path.rpartition(".")[2] for path in chosen))
    return signed(swapped(model, adapted_layer), model, method, rank=rank, alpha=alpha, targets=[*targets],
                  dropout=dropout, rank_stabilized=rank_stabilized, name=name)


def target_layers(model: nn.Module, targets: Sequence[str] | None = None) -> Mapping[str, nn.Module]:
    r"""The linear layers of a model's blocks that are meant by names.

    Args:
        model: one of ours.
        targets: as in `lora`.
    Returns: layers by their whole names, in the model's order.
    Raises:
        ValueError: if one of the targets is not there, or there are none at all.
    Lesson: 13.
    """
    linears = {path: module for path, module in model.named_modules() if _is_linear(path, module)}
    known = list(dict.fromkeys(path.rpartition(".")[2] for path in linears))
    if isinstance(targets, str):
        raise ValueError(f"targets={targets!r}: give a list of names, such as [{targets!r}]")
    if targets is None:
        targets = [last for last in known if last not in NOT_BY_ITSELF]
    for target in targets:
        if not any(_ends_in(path, target) for path in linears):
            raise ValueError(f"targets: {target!r} is no linear layer of the model's blocks; use some of {known}")
    if not targets:
        raise ValueError(f"targets={[*targets]}: nothing to adapt; use some of {known}")
    return {path: module for path, module in linears.items() if any(_ends_in(path, target) for target in targets)}


def fresh_factors(
    layer: LoraLinear, path: str, rank: int, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Factors for a layer, where it is.

    Args:
        layer: the layer.
        path: its name, for the error.
        rank: of the change.
        generator: as in `lora`.
    Returns: lora_a and lora_b, on the layer's device; float32 (float64 if the layer is).
    Raises:
        ValueError: if the rank is higher than the layer's smaller side.
    Lesson: 13.
    """
    if rank > min(layer.d_in, layer.d_out):
        raise ValueError(f"rank={rank}: {path} is {layer.d_out} x {layer.d_in}, use at most "
                         f"{min(layer.d_in, layer.d_out)}, or other targets")
    device = next(chain(layer.base.parameters(), layer.base.buffers())).device
    lora_a, lora_b = low_rank.lora_init(layer.d_in, layer.d_out, rank, generator)
    return lora_a.to(device, layer.factor_dtype), lora_b.to(device, layer.factor_dtype)


@contextmanager
def active_adapters(model: nn.Module, *names: str) -> Iterator[None]:
    r"""Inside, these adapters of a model are active and no others; after, those that were before.

    Args:
        model: with adapters.
        names: of them; none = the base, exactly.
    Returns: a context manager.
    Raises:
        ValueError: if the model has no adapter of a name.
    Lesson: 13.
    """
    layers = list(lora_layers(model).values())
    _require_names(model, names)
    before = [layer.active for layer in layers]
    for layer in layers:
        layer.active = tuple(name for name in layer.adapters if name in names)
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer.active = active


def merged_model(model: nn.Module, names: Sequence[str] | None = None) -> nn.Module:
    r"""A plain model that computes what this one does with its adapters, at the cost of the base.

    What other methods have put into the model stays in it, and on its card; a file of them is then for the merged base.

    Args:
        model: with adapters; not changed.
        names: of the adapters to merge, the others are left out; None = those that are active.
    Returns: a new model with plain layers, frozen; its numbers are the base's but for the merged matrices.
    Raises:
        ValueError: if there are no adapters, none of a name, or the base is quantized.
    Source: Hu et al. 2021, LoRA, section 4.1, "No additional inference latency".
    Lesson: 13.
    """
    _require_names(model, names or ())
    plain = swapped(model, lambda path, module: module.merged(module.active if names is None else names)
                    if isinstance(module, LoraLinear) else None)
    return unsigned(plain, model, MERGEABLE)


def _low_rank(base: nn.Module, *parts: Any) -> LowRank:
    return LowRank(*parts)


def _require_names(model: nn.Module, names: Sequence[str]) -> None:
    layers = lora_layers(model)
    if not layers:
        raise ValueError(f"model={type(model).__name__}: has no adapters; make some with minillm.tuning.lora(model)")
    known = sorted({name for layer in layers.values() for name in layer.adapters})
    for name in names:
        if name not in known:
            raise ValueError(f"names: the model has no adapter {name!r}; use some of {known}")


def _is_linear(path: str, module: nn.Module) -> bool:
    r"""Whether a module is a linear layer of a block: torch's, or one with weights in few bits."""
    *above, last = path.split(".")
    linear = isinstance(module, (nn.Linear, LoraLinear)) or type(module).__name__.endswith("Linear")
    return linear and "blocks" in above and last != "base"  # the base of a LoraLinear is reached through it


def _ends_in(path: str, target: str) -> bool:
    return path == target or path.endswith("." + target)
