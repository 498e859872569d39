r"""One length for all gradients."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Clipped = tuple[list[Tensor], Tensor]


def clipping_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield ([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])], 1.0), {}
    yield ([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])], 10.0), {}
    for dtype, scale in ((torch.float32, 2.0), (torch.float64, 1e-3), (torch.float16, 300.0), (torch.bfloat16, 1.0)):
        grads = [draw.normal(*draw.sizes(2, 2, 5), dtype=dtype, scale=scale * (i + 1)) for i in range(3)]
        length = math.sqrt(sum(number**2 for grad in grads for number in grad.flatten().tolist()))
        yield (grads, length * draw.size(2, 8) / 10), {}
        yield (grads, length * draw.size(12, 30) / 10), {}
    yield ([draw.normal(draw.size(2, 5))], math.inf), {}
    yield ([torch.zeros(draw.size(2, 4)), torch.zeros(2, 2)], 1.0), {}
    yield ([draw.normal(3)], 0.0), {}
    yield ([draw.normal(3)], -1.0), {}


def clipped_by_hand(grads: Sequence[Tensor], max_norm: int | float) -> Clipped:
    if not max_norm > 0:
        raise ValueError("max_norm")
    length = math.hypot(*(number for grad in grads for number in grad.flatten().tolist()))
    shrink = max_norm / length if length > max_norm else 1.0
    return [(grad.double() * shrink).to(grad.dtype) for grad in grads], torch.tensor(length)


def one_long_vector(grads: Sequence[Tensor], max_norm: int | float) -> Clipped:
    if max_norm <= 0:
        raise ValueError(f"max_norm={max_norm}")
    flat = torch.cat([grad.reshape(-1).to(torch.float32) for grad in grads])
    length = flat.square().sum().sqrt() if flat.abs().max() > 0 else torch.tensor(0.0)
    if length <= max_norm:
        return [grad.clone() for grad in grads], length
    pieces = (flat * (max_norm / length)).split([grad.numel() for grad in grads])
    return [p.view_as(g).to(g.dtype) for p, g in zip(pieces, grads, strict=True)], length


def all_numbers(grads: Sequence[Tensor]) -> Tensor:
    return torch.cat([grad.flatten().float() for grad in grads])


def clip_with(
    length: Callable[[Sequence[Tensor]], Tensor] = lambda grads: all_numbers(grads).norm(),
    shrink: Callable[[Tensor, Tensor, float], Tensor] = lambda grad, norm, most: grad * (most / norm).clamp(max=1.0),
    told: Callable[[Tensor, float], Tensor] = lambda norm, most: norm,
    cast: bool = True,
    check: bool = True,
) -> Callable[..., Clipped]:
    r"""A clip_by_norm in which one thing is done in another way."""

    def wrong(grads: Sequence[Tensor], max_norm: int | float) -> Clipped:
        if check and not max_norm > 0:
            raise ValueError("max_norm")
        norm = length(grads)
        wide = [grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad for grad in grads]
        clipped = [shrink(grad, norm, max_norm) for grad in wide]
        return [c.to(g.dtype) if cast else c for c, g in zip(clipped, grads, strict=True)], told(norm, max_norm)

    return wrong


CLIP_BY_NORM = Exercise(
    id="training.clipping.clip_by_norm",
    lesson="08",
    title="Clip the gradient",
    task="Take all gradients as one long vector. If it is longer than `max_norm`, shrink it to that length, all "
    "parts by the same factor; otherwise leave it. Return the list of gradients, new tensors with their old dtypes, "
    "and the length *before* clipping, as a float32 scalar.\n\n"
    "Gradients may be in 16 bits, so measure in float32. They may all be zero. A `max_norm` that is not above 0 is a "
    "ValueError; `math.inf` changes nothing.",
    difficulty=1,
    minutes=10,
    points=3,
    seed=83,
    hints=(
        "Two lines: the length, then the list. For [3] and [0, 4] together the length is 5.",
        "The length of several vectors taken as one: the root of the sum of *all* squares.",
        "The factor is max_norm / length, but never more than 1. `.clamp(max=1.0)` on a tensor does that, for a length "
        "of 0 as well, where the quotient is inf.",
    ),
    cases=clipping_cases,
    oracle=clipped_by_hand,
    other_style=one_long_vector,
    tolerance=Tolerance(2e-5, 1e-7, "a float32 sum of squares taken in another order"),
    mistakes=(
        Mistake(
            "each on its own",
            clip_with(shrink=lambda grad, norm, most: grad * (most / grad.float().norm()).clamp(max=1.0)),
            "You clip each tensor by its own length. Then large gradients shrink and small ones do not, and the step "
            "goes in another direction. There is one length, and one factor, for all.",
        ),
        Mistake(
            "clipped by value",
            clip_with(shrink=lambda grad, norm, most: grad.clamp(-most, most)),
            "You cut off each number at max_norm. That bends the direction; clipping by norm shrinks the whole vector.",
        ),
        Mistake(
            "always scaled",
            clip_with(shrink=lambda grad, norm, most: grad if math.isinf(most) else grad * most / norm.clamp(min=1e-9)),
            "Short gradients are stretched to max_norm. max_norm is an upper bound: the factor is never above 1.",
        ),
        Mistake(
            "no root",
            clip_with(length=lambda grads: all_numbers(grads).square().sum()),
            "You compare the *square* of the length with max_norm. Take the root.",
        ),
        Mistake(
            "lengths added up",
            clip_with(length=lambda grads: torch.stack([grad.float().norm() for grad in grads]).sum()),
            "You add up the lengths of the tensors. Lengths add as in Pythagoras: the root of the sum of their "
            "squares, 5 and not 7 for [3] and [4].",
        ),
        Mistake(
            "absolute values",
            clip_with(length=lambda grads: all_numbers(grads).abs().sum()),
            "You measure by the sum of absolute values, the 1-norm. The length of a vector is the root of its squares' "
            "sum.",
        ),
        Mistake(
            "length after clipping",
            clip_with(told=lambda norm, most: norm.clamp(max=most)),
            "You return the length after clipping, which says nothing: it is max_norm or less by construction. The "
            "length before it is what shows in a training curve that something went wrong.",
        ),
        Mistake(
            "zero over zero",
            clip_with(shrink=lambda grad, norm, most: grad / norm * norm.clamp(max=most)),
            "If all gradients are zero you divide 0 by 0, and from then on the weights are nan. Multiply by a factor "
            "instead of dividing by the length.",
        ),
        Mistake(
            "measured in 16 bits",
            clip_with(length=lambda grads: torch.cat([g.flatten() for g in grads]).square().sum().sqrt().float()),
            "You square in the gradients' own dtype. In float16 the square of 300 is infinite, the factor becomes 0, "
            "and the step is lost. Measure in float32.",
        ),
        Mistake(
            "not cast back",
            clip_with(cast=False),
            "16-bit gradients come back as float32. Each tensor keeps its dtype.",
        ),
        Mistake(
            "any max_norm",
            clip_with(check=False),
            "A max_norm of 0 would stop all learning, and a negative one would turn the gradient round. Refuse both by "
            "a ValueError.",
        ),
    ),
)
