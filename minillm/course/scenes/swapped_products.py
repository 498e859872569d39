r"""Look at what the linear layers of a model read, and let them multiply in another way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.model.gpt import GPT

Product = Callable[[Tensor, Tensor], Tensor]


def block_linears(model: GPT) -> dict[str, nn.Linear]:
    r"""The linear layers of all blocks; the head is none of them.

    Args:
        model: with `blocks`.
    Returns: name, such as "0.attn.q_proj", -> layer.
    """
    return {name: part for name, part in model.blocks.named_modules() if isinstance(part, nn.Linear)}


def layer_inputs(model: GPT, token_ids: Int[Tensor, "B T"]) -> dict[str, Float[Tensor, "BT C"]]:
    r"""What each linear layer of the blocks reads.

    Args:
        model: in evaluation mode.
        token_ids: (B, T), int64.
    Returns: name -> activations, a row a token, (B * T, C).
    """
    read: dict[str, Tensor] = {}
    hooks = [part.register_forward_pre_hook(lambda _, inputs, name=name: read.__setitem__(name, inputs[0]))
             for name, part in block_linears(model).items()]
    try:
        with torch.no_grad():
            model(token_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: x.flatten(0, -2) for name, x in read.items()}


@contextmanager
def swapped_products(model: GPT, product: Product) -> Iterator[None]:
    r"""Inside this context the linear layers of the blocks give product(x, weight) in place of x @ weight.T.

    Args:
        model: its layers have no biases.
        product: (T, C) and (R, C) -> (T, R).
    Returns: a context manager; afterwards the model is as it was.
    Raises:
        ValueError: if a layer has a bias.
    """
    layers = block_linears(model)
    for name, part in layers.items():
        if part.bias is not None:
            raise ValueError(f"model has a bias in {name}: use one without biases")
    try:
        for part in layers.values():
            part.forward = partial(_swapped, product, part.weight)
        yield
    finally:
        for part in layers.values():
            del part.forward


def _swapped(product: Product, weight: Tensor, x: Tensor) -> Tensor:
    return product(x.flatten(0, -2), weight).reshape(*x.shape[:-1], len(weight))
