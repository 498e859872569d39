r"""Deep stacks of small FFNs, for questions about norms and depth: what a stream, a gradient and a first step do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.layers import deepnorm, norms, residual

WIDTH, N_POINTS, N_CLASSES = 64, 128, 10
PLACES = ("pre-norm", "post-norm", "sandwich", "DeepNorm", "no residual", "no norm")
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Stack:
    r"""Stacks of equal build, one a seed, that run side by side: every tensor has the seeds as its first dimension.

    Args:
        place: one of PLACES.
        alpha: weight of the stream, for DeepNorm; 1 for the others.
        layers: a pair a layer, (S, D, 2D) and (S, 2D, D).
        head: (S, D, classes), from the last stream to logits.
    """

    place: str
    alpha: float
    layers: list[tuple[Tensor, Tensor]]
    head: Tensor

    def weights(self) -> list[Tensor]:
        r"""Every matrix.

        Returns: those of the layers, then the head.
        """
        return [matrix for layer in self.layers for matrix in layer] + [self.head]


def fresh_stack(place: str, n_layers: int, seeds: Sequence[int], gain: float = 1.0) -> Stack:
    r"""Stacks with fresh weights, by Xavier's rule; for DeepNorm, beta times smaller.

    Args:
        place: one of PLACES.
        n_layers: small FFNs, each in a branch of its own.
        seeds: a stack for each.
        gain: factor on the weights of the layers.
    Returns: the stacks; their weights want gradients.
    Raises:
        ValueError: if there is no such place.
    """
    if place not in PLACES:
        raise ValueError(f"place={place!r}: choose one of {', '.join(PLACES)}")
    alpha, beta = deepnorm.deepnorm_constants(n_layers) if place == "DeepNorm" else (1.0, 1.0)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    std = gain * beta * math.sqrt(2 / (3 * WIDTH))

    def drawn(rows: int, columns: int, std: float) -> Tensor:
        one_each = [torch.randn(rows, columns, generator=generator) * std for generator in generators]
        return torch.stack(one_each).requires_grad_()

    layers = [(drawn(WIDTH, 2 * WIDTH, std), drawn(2 * WIDTH, WIDTH, std)) for _ in range(n_layers)]
    return Stack(place, alpha, layers, drawn(WIDTH, N_CLASSES, WIDTH**-0.5))


def labelled_points(seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""Random points, each in the class that a random linear map gives it: a single matrix could learn this.

    Args:
        seeds: a task for each.
    Returns: points, (S, N_POINTS, WIDTH); classes, (S, N_POINTS) int64.
    """
    points, classes = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(1000 + seed)
        points.append(torch.randn(N_POINTS, WIDTH, generator=generator))
        classes.append((points[-1] @ torch.randn(WIDTH, N_CLASSES, generator=generator)).argmax(-1))
    return torch.stack(points), torch.stack(classes)


def plain_norm(kind: str = "layer") -> Step:
    r"""A norm whose weight is 1 and stays 1.

    Args:
        kind: `layer` or `rms`.
    Returns: a module on (..., WIDTH).
    Raises:
        ValueError: if there is no such norm.
    """
    if kind not in ("layer", "rms"):
        raise ValueError(f"kind={kind!r}: use 'layer' or 'rms'")
    module = norms.LayerNorm(WIDTH, bias=False) if kind == "layer" else norms.RMSNorm(WIDTH)
    return module.requires_grad_(False)


def small_ffn(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    r"""The part of every branch.

    Args:
        x: (..., D).
        up: (..., D, 2D).
        down: (..., 2D, D).
    Returns: (..., D).
    """
    return torch.relu(x @ up) @ down


def join_branch(place: str, x: Tensor, norm: Step, part: Step, alpha: float = 1.0) -> Tensor:
    r"""One branch of a stack.

    Args:
        place: one of PLACES.
        x: the stream, (..., D).
        norm: on (..., D).
        part: on (..., D).
        alpha: for DeepNorm.
    Returns: the stream after the branch, (..., D).
    """
    if place == "pre-norm":
        return residual.pre_norm_block(x, [(norm, part)])
    if place == "post-norm":
        return residual.post_norm_branch(x, norm, part)
    if place == "sandwich":
        return residual.sandwich_branch(x, norm, norm, part)
    if place == "DeepNorm":
        return residual.deepnorm_branch(x, norm, part, alpha)
    return norm(part(x)) if place == "no residual" else x + part(x)


def stack_streams(stack: Stack, x: Tensor, norm: Step | None = None) -> list[Tensor]:
    r"""The stream on its way through the stacks.

    Args:
        stack: from `fresh_stack`.
        x: (S, N, D).
        norm: for all layers; None = `plain_norm()`.
    Returns: x, then the stream after each layer; each (S, N, D).
    """
    norm = norm or plain_norm()
    streams = [x]
    for up, down in stack.layers:
        streams.append(join_branch(stack.place, streams[-1], norm, partial(small_ffn, up=up, down=down), stack.alpha))
    return streams


def stack_logits(stack: Stack, last: Tensor, norm: Step | None = None) -> Tensor:
    r"""From the last stream to logits; where the stream itself is never normalized, through a final norm.

    Args:
        stack: from `fresh_stack`.
        last: the last of `stack_streams`, (S, N, D).
        norm: None = `plain_norm()`.
    Returns: (S, N, classes).
    """
    if stack.place in ("pre-norm", "sandwich"):
        last = (norm or plain_norm())(last)
    return last @ stack.head


def stack_losses(logits: Tensor, classes: Tensor) -> Tensor:
    r"""The loss of each stack.

    Args:
        logits: (S, N, classes).
        classes: (S, N) int64.
    Returns: (S,), nats.
    """
    return F.cross_entropy(logits.mT, classes, reduction="none").mean(-1)


def likeness(x: Tensor) -> Tensor:
    r"""How alike the rows are: the mean cosine of two different ones.

    Args:
        x: (..., N, D).
    Returns: (...): 0 for random directions, 1 if all rows are the same but for their length.
    """
    directions, n = F.normalize(x, dim=-1), x.shape[-2]
    return (directions.sum(dim=-2).square().sum(dim=-1) - n) / (n * (n - 1))


@dataclass(frozen=True)
class Readings:
    r"""What fresh stacks show, layer by layer; each a list of (S,) tensors.

    Args:
        variance: of the stream, over the features, relative to the input's; first the input.
        likeness: of the stream's rows; first the input.
        gradient: the norm of the loss's gradient for each layer's first matrix.
        loss: of the fresh stacks.
    """

    variance: list[Tensor]
    likeness: list[Tensor]
    gradient: list[Tensor]
    loss: Tensor


def read_stack(stack: Stack, seeds: Sequence[int], norm: Step | None = None) -> Readings:
    r"""Run fresh stacks once, forwards and backwards.

    Args:
        stack: from `fresh_stack`.
        seeds: those of the stacks.
        norm: None = `plain_norm()`.
    Returns: what was seen on the way.
    """
    points, classes = labelled_points(seeds)
    streams = stack_streams(stack, points, norm)
    losses = stack_losses(stack_logits(stack, streams[-1], norm), classes)
    gradients = torch.autograd.grad(losses.sum(), [up for up, _ in stack.layers])
    sizes = [stream.detach().var(dim=-1, correction=0).mean(-1) for stream in streams]
    return Readings(
        variance=[size / sizes[0] for size in sizes],
        likeness=[likeness(stream.detach()) for stream in streams],
        gradient=[gradient.flatten(1).norm(dim=1) for gradient in gradients],
        loss=losses.detach(),
    )


def train_stack(
    stack: Stack,
    seeds: Sequence[int],
    steps: int,
    learning_rate: float = 2e-3,
    warmup_steps: int = 0,
    norm: Step | None = None,
) -> Tensor:
    r"""Train stacks with Adam on all their points, each on its own task; their weights are changed in place.

    Args:
        stack: from `fresh_stack`.
        seeds: those of the stacks.
        steps: of training.
        learning_rate: after the warm-up.
        warmup_steps: over which the rate rises from 0; 0 = none.
        norm: None = `plain_norm()`.
    Returns: (steps + 1, S): the losses before each step and after the last.
    """
    points, classes = labelled_points(seeds)
    optimizer = torch.optim.Adam(stack.weights(), learning_rate)
    history = []
    for step in range(steps + 1):
        losses = stack_losses(stack_logits(stack, stack_streams(stack, points, norm)[-1], norm), classes)
        history.append(losses.detach())
        if step < steps:
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (step + 1) / max(1, warmup_steps))
            optimizer.step()
    return torch.stack(history)
