r"""The matrices of linear layers in floats, 8 and 4 bits: their sizes, rows, and several of them as one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minillm.inference.quantization.linears import Int4Linear, Int8Linear


def join(layers: Sequence[Any]) -> Any:
    r"""One layer whose output is that of several, side by side: one pass over x in place of several.

    Args:
        layers: of one kind, on the same input.
    Returns: a layer of that kind, with copies of their weights.
    Lesson: 11.
    """
    first = layers[0]
    biases = [torch.zeros(sizes(each)[0]) if each.bias is None else each.bias.detach() for each in layers]
    bias = None if all(each.bias is None for each in layers) else torch.cat(biases)

    def stack(name: str) -> Tensor:
        return torch.cat([getattr(each, name).detach() for each in layers])

    if type(first) is Int8Linear:
        return Int8Linear(stack("q_weight"), stack("scales"), bias, first.dtype)
    if type(first) is Int4Linear:
        return Int4Linear(stack("packed"), stack("scales"), stack("lows"), bias, first.dtype)
    return frozen_linear(stack("weight"), bias)


def first_rows(layer: Any, n: int) -> Any:
    r"""The first n rows of a layer, without bias; nothing is copied.

    Args:
        layer: nn.Linear, Int8Linear or Int4Linear.
        n: rows, at least 1.
    Returns: a layer of that kind.
    Lesson: 11.
    """
    if type(layer) is Int8Linear:
        return Int8Linear(layer.q_weight[:n], layer.scales[:n], None, layer.dtype)
    if type(layer) is Int4Linear:
        return Int4Linear(layer.packed[:n], layer.scales[:n], layer.lows[:n], None, layer.dtype)
    return frozen_linear(layer.weight.detach()[:n], None)


def sizes(layer: Any) -> tuple[int, int]:
    r"""The size of a layer's matrix.

    Args:
        layer: nn.Linear, Int8Linear or Int4Linear.
    Returns: R and C.
    Lesson: 11.
    """
    if type(layer) is Int4Linear:
        return layer.packed.shape[0], 2 * layer.packed.shape[1]
    return tuple((layer.q_weight if type(layer) is Int8Linear else layer.weight).shape)


def own_dtype(layer: Any) -> torch.dtype:
    r"""The type that a layer's activations have in the model.

    Args:
        layer: nn.Linear, Int8Linear or Int4Linear.
    Returns: a floating type.
    Lesson: 11.
    """
    return layer.weight.dtype if type(layer) is nn.Linear else layer.dtype


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    r"""An nn.Linear around a matrix that is there already.

    Args:
        weight: (R, C), not copied.
        bias: (R,), or None.
    Returns: the layer, not trained.
    Lesson: 11.
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
