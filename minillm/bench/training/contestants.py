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
        step: (batch, learning_rate) -> the loss before the step.
    """

    name: str
    dtype: str
    compile: bool
    step: Step


def make_contestants(model: GPT, compile: bool, dtype: str, entered: ExitStack) -> list[Contestant]:
    r"""Everyone, each with a model of its own that begins as a copy of the given one.

    Args:
        model: ours, on the CPU, float32; stays as it is.
        compile: whether to add those that are compiled.
        dtype: what our engine computes in: `auto`, `fp32`, `bf16` or `fp16`.
        entered: closed by the caller when all is measured; lets go of our working copies.
    Returns: the contestants; the first is the yardstick: the peer in float32, eager.
    """
    peers = [partial(_peer, model, *choice) for choice in ((False, False), (True, False))]
    own = [partial(_ours, model, False, dtype, entered)]
    if compile:
        peers += [partial(_peer, model, *choice) for choice in ((False, True), (True, True))]
        own.append(partial(_ours, model, True, dtype, entered))
    return [make() for make in (*peers, *own)]


def _peer(model: GPT, autocast: bool, compile: bool) -> Contestant:
    own = peer.PeerGPT(model)
    optimizer = peer.peer_optimizer(own, Recipe().weight_decay, Recipe().betas)
    loss_of = compiled(own, torch.device("cpu")) if compile else own

    def step(batch: tuple[Tensor, Tensor], learning_rate: float) -> Tensor:
        return peer.peer_step(loss_of, own, optimizer, batch, learning_rate, autocast)

    return Contestant("nanogpt", "bf16 autocast" if autocast else "fp32", compile, step)


def _ours(model: GPT, compile: bool, dtype: str, entered: ExitStack) -> Contestant:
    own = GPT(model.config)
    own.load_state_dict(model.state_dict())
    state = TrainingState(own.train(), Recipe(dtype=dtype, compile=compile))
    entered.enter_context(state.weights.attached(precision.DTYPES[state.dtype]))
    mean_loss = partial(accumulation.batch_loss, state.weights.forward)  # as `loop.train` makes it
    if compile:
        mean_loss = compiled(mean_loss, state.device)

    def step(batch: tuple[Tensor, Tensor], learning_rate: float) -> Tensor:
        return training_step(state, mean_loss, [batch], learning_rate)[0]

    return Contestant("ours", state.dtype, compile, step)
