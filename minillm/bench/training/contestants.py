r"""Who is timed: the peer and our engine, each as a function that takes one training step."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from minillm.bench.training import peer
from minillm.model.gpt import GPT
from minillm.training import accumulation, precision
from minillm.training.compiling import compiled
from minillm.training.loop import training_step
from minillm.training.own_kernel import computed_by_kernel, kernel_obstacle
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState

Step = Callable[[tuple[Tensor, Tensor], float], Tensor]


@dataclass(frozen=True)
class Contestant:
    r"""One line of the comparison.

    Args:
        name: `nanogpt` or `ours`.
        dtype: what it computes in.
        compile: whether by torch.compile.
        kernel: whether our own kernel computes the blocks.
        step: (batch, learning_rate) -> the loss before the step.
    """

    name: str
    dtype: str
    compile: bool
    kernel: bool
    step: Step


def make_contestants(model: GPT, compile: bool, dtype: str, entered: ExitStack) -> list[Contestant]:
    r"""Everyone, each with a model of its own that begins as a copy of the given one.

    Args:
        model: ours, on the CPU, float32; stays as it is.
        compile: whether to add those that are compiled.
        dtype: what our engine computes in: `auto`, `fp32`, `bf16` or `fp16`.
        entered: closed by the caller when all is measured; lets go of our working copies.
    Returns: the contestants; the first is the yardstick: the peer in float32, eager. Our engine with its own kernel is
        among them where that can be used.
    """
    dtype = precision.resolve_dtype(dtype, torch.device("cpu"))  # once, for all of ours
    ways = (False, True) if compile else (False,)
    peers = [_peer(model, autocast, compiled_too) for compiled_too in ways for autocast in (False, True)]
    recipes = [Recipe(dtype=dtype, compile=compiled_too) for compiled_too in ways]
    if kernel_obstacle(model, dtype) is None:
        recipes.append(Recipe(dtype=dtype, kernel=True))
    return [*peers, *(_ours(model, recipe, entered) for recipe in recipes)]


def _peer(model: GPT, autocast: bool, compile: bool) -> Contestant:
    own = peer.PeerGPT(model)
    optimizer = peer.peer_optimizer(own, Recipe().weight_decay, Recipe().betas)
    loss_of = compiled(own, torch.device("cpu")) if compile else own

    def step(batch: tuple[Tensor, Tensor], learning_rate: float) -> Tensor:
        return peer.peer_step(loss_of, own, optimizer, batch, learning_rate, autocast)

    return Contestant("nanogpt", "bf16 autocast" if autocast else "fp32", compile, False, step)


def _ours(model: GPT, recipe: Recipe, entered: ExitStack) -> Contestant:
    own = GPT(model.config)
    own.load_state_dict(model.state_dict())
    state = TrainingState(own.train(), recipe)
    entered.enter_context(state.weights.attached(precision.DTYPES[state.dtype]))
    entered.enter_context(computed_by_kernel(state))
    mean_loss = partial(accumulation.batch_loss, state.weights.forward)  # as `loop.train` makes it
    if recipe.compile:
        mean_loss = compiled(mean_loss, state.device)

    def step(batch: tuple[Tensor, Tensor], learning_rate: float) -> Tensor:
        return training_step(state, mean_loss, [batch], learning_rate)[0]

    return Contestant("ours", state.dtype, recipe.compile, recipe.kernel, step)
