r"""Activation checkpointing: forget what a block has computed, and compute it again when the backward pass needs it.

    plain        forward keeps every intermediate of every block     backward reads them
    recomputed   forward keeps each block's input, nothing else      backward runs the block once more, then goes on

It costs a second forward pass, about a third more arithmetic in all, and changes no gradient: the same numbers are
computed by the same kernels, and dropout draws the same mask because the state of the random numbers is kept too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minillm.training import balancing
from minillm.training.block_forwards import replaced_forwards


def recompute(
    function: Callable[..., Tensor], x: Float[Tensor, "*shape"], parameters: Sequence[Tensor], *rest: Any
) -> Float[Tensor, "*out"]:
    r"""function(x, *rest), keeping x alone for the backward pass, which calls the function a second time.

    Args:
        function: gives one tensor; the second call must do what the first did (its random numbers are repeated).
        x: what gradients flow back to, float.
        parameters: the weights that the function uses and that shall get gradients.
        rest: further arguments, without gradients: positions, angles.
    Returns: what the function gives.
    Raises:
        ValueError: if a tensor in rest needs a gradient: it would get none.
    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, with segments of one block.
    Lesson: 08.
    """
    if any(isinstance(part, Tensor) and part.requires_grad for part in rest):
        raise ValueError("rest holds a tensor that requires a gradient: give it among parameters, or detach it")
    if not torch.is_grad_enabled():
        return function(x, *rest)
    return _Recomputed.apply(function, rest, x, *parameters)


@contextmanager
def recomputed_blocks(model: nn.Module, active: bool = True) -> Iterator[None]:
    r"""Inside, every block of a model keeps only its input for the backward pass.

    Args:
        model: has a list `blocks` of modules called as block(x, positions, angles, cache); calls with a cache, and
            calls without gradients, run as always.
        active: False changes nothing, so that a setting can be passed on.
    Returns: a context manager.
    Raises:
        ValueError: if the model has a mixture of experts (its balancing loss reads inside of the blocks), or weights
            that are sharded over processes.
    Source: as `recompute`.
    Lesson: 08.
    """
    if active and balancing.has_experts(model):
        raise ValueError(f"model={type(model).__name__}: its mixture of experts is balanced by what routers say inside "
                         "the blocks, which is not kept; train it without recomputing")
    if active and any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        raise ValueError(f"model={type(model).__name__}: its weights are sharded, and whole only while a block runs "
                         "for the first time; train it with parallel='ddp', or without recomputing")
    blocks = model.blocks if active else []
    with replaced_forwards(blocks, lambda block: partial(_block_forward, block, block.forward)):
        yield


def _block_forward(
    block: nn.Module,
    forward: Callable[..., Tensor],
    x: Tensor,
    positions: Tensor,
    angles: Tensor | None = None,
    cache: Any = None,
) -> Tensor:
    if cache is not None:  # the second call would append the same tokens again
        return forward(x, positions, angles, cache)
    return recompute(forward, x, [weight for weight in block.parameters() if weight.requires_grad], positions, angles)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], rest: tuple, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.function, ctx.rest = function, rest
        ctx.random_state = _random_state(x)
        ctx.autocast = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        ctx.save_for_backward(x, *parameters)
        # With gradients on, so that the same kernels run as in the second call; what they save goes nowhere.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda saved: None, _refuse):
            return function(x.detach().requires_grad_(x.requires_grad), *rest).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        x = x.detach().requires_grad_(ctx.needs_input_grad[2])
        enabled, dtype = ctx.autocast
        with torch.enable_grad(), _replayed(ctx.random_state, x), torch.autocast(x.device.type, dtype, enabled):
            out = ctx.function(x, *ctx.rest)
        wanted = [tensor for tensor in (x, *parameters) if tensor.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad, allow_unused=True))
        return None, None, *(next(grads) if tensor.requires_grad else None for tensor in (x, *parameters))


def _refuse(saved: None) -> Tensor:
    raise RuntimeError("a gradient was asked for through the first pass of a recomputed block, which keeps nothing")


def _random_state(x: Tensor) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], x: Tensor) -> Iterator[None]:
    r"""Inside, the random numbers that were drawn after `state`; after it, those that would have come anyway."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], x.device)
        yield
