r"""Gates: SwiGLU, and the width at which it is as large as an MLP."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Part = Callable[[Tensor], Tensor]
Case = tuple[tuple[Any, ...], dict[str, Any]]
THREE_PRODUCTS = Tolerance(5e-5, 1e-5, "three matrix products one after another, possibly in another order")


class Projection:
    r"""A matrix and a bias as a function; the oracle reads its numbers."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def by_hand(self, vector: list[float]) -> list[float]:
        r"""The product with one vector, in double precision."""
        rows = zip(self.weight.tolist(), self.bias.tolist(), strict=True)
        return [sum(w * v for w, v in zip(row, vector, strict=True)) + bias for row, bias in rows]


def random_projection(draw: Draw, d_in: int, d_out: int, dtype: torch.dtype) -> Projection:
    return Projection(draw.normal(d_out, d_in, dtype=dtype), draw.normal(d_out, dtype=dtype, scale=0.3))


def swiglu_cases(draw: Draw) -> Iterator[Case]:
    sizes = draw.sizes(2, 3, 7)
    for shape, d_ff, dtype in (
        ((2, 3), 3, torch.float32),  # as wide inside as outside, so that a wrong formula runs at all
        ((draw.size(2, 4), *sizes), sizes[1], torch.float32),
        ((draw.size(2, 4), *sizes), sizes[1] + 3, torch.float32),
        ((2, *draw.sizes(3, 2, 5)), 7, torch.float64),
    ):
        d_model = shape[-1]
        parts = [random_projection(draw, d_model, d_ff, dtype) for _ in range(2)]
        yield (draw.normal(*shape, dtype=dtype), *parts, random_projection(draw, d_ff, d_model, dtype)), {}


def swiglu_token_by_token(x: Tensor, gate_proj: Projection, up_proj: Projection, down_proj: Projection) -> Tensor:
    tokens = []
    for token in x.reshape(-1, x.shape[-1]).tolist():
        gates, ups = gate_proj.by_hand(token), up_proj.by_hand(token)
        hidden = [gate / (1 + math.exp(-gate)) * up for gate, up in zip(gates, ups, strict=True)]
        tokens.append(down_proj.by_hand(hidden))
    return torch.tensor(tokens, dtype=x.dtype).view_as(x)


def in_steps(x: Tensor, gate_proj: Part, up_proj: Part, down_proj: Part) -> Tensor:
    gate = gate_proj(x)
    opened = gate * torch.sigmoid(gate)
    return down_proj(up_proj(x) * opened)


def gated_by(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    r"""down_proj of a combination of both projections."""
    return lambda x, gate_proj, up_proj, down_proj: down_proj(combine(gate_proj(x), up_proj(x)))


SWIGLU = Exercise(
    id="layers.gated.swiglu",
    lesson="06",
    title="SwiGLU",
    task="Write the FFN of LLaMA:\n\n"
    "$$\\mathrm{SwiGLU}(x) = \\left(\\mathrm{SiLU}(x W_{gate}) \\odot x W_{up}\\right) W_{down}$$\n\n"
    "The three projections are handed in as functions (in a model they are `nn.Linear`): `gate_proj` and `up_proj` "
    "make d_ff features out of d_model, `down_proj` makes d_model out of d_ff. SiLU is Swish with beta 1, in torch "
    "`torch.nn.functional.silu`.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=63,
    hints=(
        "Look at the drawing: x goes two ways, they meet in a product, and what comes out goes through a third matrix.",
        "Only one of the two ways is bent.",
        "The product is feature by feature, `*`, of two tensors (..., d_ff).",
    ),
    cases=swiglu_cases,
    oracle=swiglu_token_by_token,
    other_style=in_steps,
    tolerance=THREE_PRODUCTS,
    mistakes=(
        Mistake(
            "one matrix",
            lambda x, gate_proj, up_proj, down_proj: x * torch.sigmoid(gate_proj(x)),
            "x * sigmoid(W x), with one matrix, is printed in many an answer as GLU and as SwiGLU, and is neither. The "
            "gate must multiply a second projection of x, and a third matrix leads back; and SwiGLU's gate is SiLU. "
            "With x itself under the gate, the hidden width could not differ from d_model.",
        ),
        Mistake(
            "sigmoid gate",
            gated_by(lambda gate, up: torch.sigmoid(gate) * up),
            "That is GLU, the first of the family: its gate is a sigmoid. SwiGLU's gate is SiLU, z * sigmoid(z): you "
            "left out the z.",
        ),
        Mistake(
            "GELU gate",
            gated_by(lambda gate, up: F.gelu(gate) * up),
            "That is GeGLU: the gate is bent by GELU. LLaMA's is bent by SiLU.",
        ),
        Mistake(
            "bent on the wrong way",
            gated_by(lambda gate, up: gate * F.silu(up)),
            "The activation stands on up_proj; it belongs on gate_proj. A model that is trained so from the start is "
            "as good, since only the names are exchanged; but with anybody else's weights nonsense comes out.",
        ),
        Mistake(
            "both ways bent",
            gated_by(lambda gate, up: F.silu(gate) * F.silu(up)),
            "Both projections go through SiLU. Only the gate is bent; what it lets through stays linear.",
        ),
        Mistake(
            "bent after the product",
            gated_by(lambda gate, up: F.silu(gate * up)),
            "You bend the product. The gate is bent first and then multiplies.",
        ),
        Mistake(
            "added",
            gated_by(lambda gate, up: F.silu(gate) + up),
            "You add where a gate must multiply: a sum lets everything pass, whatever the gate says.",
        ),
        Mistake(
            "no up_proj",
            lambda x, gate_proj, up_proj, down_proj: down_proj(F.silu(gate_proj(x))),
            "up_proj is never used: this is a plain FFN of two matrices with SiLU between them.",
        ),
        Mistake(
            "no down_proj",
            lambda x, gate_proj, up_proj, down_proj: F.silu(gate_proj(x)) * up_proj(x),
            "down_proj is never used: the result has d_ff features, and the residual stream has d_model.",
        ),
        Mistake(
            "bent before the projection",
            lambda x, gate_proj, up_proj, down_proj: down_proj(gate_proj(F.silu(x)) * up_proj(x)),
            "You bend x and then project it. First the projection, then the bend.",
        ),
    ),
)


def width_cases(draw: Draw) -> Iterator[Case]:
    yield (16,), {}
    yield (4 * 4096, 256), {}
    for _ in range(3):
        yield (draw.size(4, 9000),), {}
        multiple_of = draw.size(3, 300)
        yield (draw.size(4, 9000), multiple_of), {}
    multiple_of = draw.size(2, 64)
    yield (3 * multiple_of * draw.size(1, 9), multiple_of), {}  # two thirds are a multiple already


def width_by_counting(d_ff: int, multiple_of: int = 1) -> int:
    r"""Add weights until they are as many: 3 for each hidden feature of a GLU, 2 for one of the MLP, times d_model."""
    width = d_ff // 2
    while 3 * (width + 1) <= 2 * d_ff:
        width += 1
    while width % multiple_of:
        width += 1
    return width


def rounded(share: Callable[[int], float], up: Callable[[float, int], int]) -> Callable[..., Any]:
    return lambda d_ff, multiple_of=1: up(share(d_ff), multiple_of)


def next_multiple(number: float, multiple_of: int) -> int:
    return math.ceil(int(number) / multiple_of) * multiple_of


EQUAL_PARAM_WIDTH = Exercise(
    id="layers.gated.equal_param_width",
    lesson="06",
    title="The width of a fair comparison",
    task="An MLP of hidden width `d_ff` has two matrices, a GLU has three. How wide may the GLU be, if it is to have "
    "as many weights? Give the largest whole number that needs no more, and then round it *up* to a multiple of "
    "`multiple_of`, as LLaMA does (with 256), because some widths suit the hardware better.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=64,
    hints=(
        "Count the weights of both, for d_model = D: two matrices of D x d_ff; three of D x width. Solve for width.",
        "`//` rounds down. For rounding up to a multiple: how many multiples of m reach n? One less than n, divided by "
        "m and rounded down, plus one.",
        "Check by hand: 16,384 gives 10,922, and with multiples of 256 it becomes 11,008 = 43 * 256.",
    ),
    cases=width_cases,
    oracle=width_by_counting,
    other_style=lambda d_ff, multiple_of=1: next_multiple(2 * d_ff // 3, multiple_of),
    tolerance=Tolerance(0.0, 0.0, "whole numbers"),
    mistakes=(
        Mistake(
            "the same width",
            rounded(lambda d_ff: d_ff, next_multiple),
            "You keep d_ff. A GLU of the same width has three matrices for two, half as many weights again: a "
            "comparison with that is not fair.",
        ),
        Mistake(
            "half",
            rounded(lambda d_ff: d_ff // 2, next_multiple),
            "You halve d_ff. Three matrices for two: each may have two thirds of the size.",
        ),
        Mistake(
            "three halves",
            rounded(lambda d_ff: 3 * d_ff // 2, next_multiple),
            "The ratio is upside down: with more matrices each has to be narrower, two thirds and not three halves.",
        ),
        Mistake(
            "8/3 of it",
            rounded(lambda d_ff: 8 * d_ff // 3, next_multiple),
            "8/3 belongs to d_model: 8/3 D is two thirds of 4 D. The argument is the MLP's d_ff, so take 2/3.",
        ),
        Mistake(
            "multiple_of unused",
            rounded(lambda d_ff: 2 * d_ff // 3, lambda number, multiple_of: int(number)),
            "multiple_of has no effect. Round up to a multiple of it: 10,922 becomes 11,008 = 43 * 256.",
        ),
        Mistake(
            "rounded down",
            rounded(lambda d_ff: 2 * d_ff // 3, lambda number, multiple_of: int(number) // multiple_of * multiple_of),
            "You round down to a multiple. LLaMA rounds up: 11,008, not 10,752. (And rounding down can end at 0.)",
        ),
        Mistake(
            "always one more",
            rounded(
                lambda d_ff: 2 * d_ff // 3,
                lambda number, multiple_of: (int(number) // multiple_of + 1) * multiple_of,
            ),
            "A width that is a multiple already goes up by another one. Round up only where something is left over.",
        ),
        Mistake(
            "multiple before the share",
            lambda d_ff, multiple_of=1: 2 * next_multiple(d_ff, multiple_of) // 3,
            "You round first and take two thirds afterwards, so the result is no multiple any more. The share comes "
            "first.",
        ),
        Mistake(
            "a float",
            rounded(lambda d_ff: 2 * d_ff / 3, lambda number, multiple_of: -(-number // multiple_of) * multiple_of),
            "The result is not a whole number of the right kind: `/` gives a float, and a width is an int. Use `//`.",
        ),
    ),
)
