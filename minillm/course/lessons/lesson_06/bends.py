r"""Activations: the tanh form of GELU, and Swish."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

NUMBER_BY_NUMBER = Tolerance(1e-5, 2e-6, "float32: exp and tanh, and 1 + tanh close to -1 loses digits")
ROOT = math.sqrt(2 / math.pi)
Case = tuple[tuple[Any, ...], dict[str, Any]]


def gelu_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]),), {}
    yield (draw.normal(*draw.sizes(2, 3, 7), scale=2.0),), {}
    yield (draw.normal(*draw.sizes(3, 2, 5), scale=2.0, dtype=torch.float64),), {}
    yield (draw.normal(40, scale=4.0),), {}


def gelu_one_by_one(x: Tensor) -> Tensor:
    r"""x times a sigmoid, since (1 + tanh(u)) / 2 = sigmoid(2u); number by number in double precision."""

    def bent(number: float) -> float:
        u = ROOT * (number + 0.044715 * number * number * number)
        return number / (1 + math.exp(-2 * u)) if u > -300 else 0.0

    return torch.tensor([bent(number) for number in x.flatten().tolist()], dtype=x.dtype).view_as(x)


def gelu_by(inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    r"""x / 2 * (1 + tanh(inner(x)))."""
    return lambda x: x / 2 * (1 + torch.tanh(inner(x)))


GELU_TANH = Exercise(
    id="layers.activations.gelu_tanh",
    lesson="06",
    title="GELU, the tanh form",
    task="Write the approximation of GELU that GPT-2 was trained with:\n\n"
    "$$\\mathrm{gelu}(x) \\approx \\frac{x}{2}\\left(1 + \\tanh\\left(\\sqrt{2/\\pi}\\,(x + 0.044715\\,x^3)"
    "\\right)\\right)$$\n\n"
    "`x` has any shape; each number is bent by itself.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=61,
    hints=(
        "`torch.tanh` works on every number of a tensor; `math.sqrt` and `math.pi` give the constant.",
        "Work from the inside: the cube, the sum, the constant that multiplies the whole sum, tanh, plus 1, times half "
        "of x.",
        "At x = 1 the sum is 1.044715, times 0.797885 it is 0.83356, its tanh 0.68239: half of 1.68239 is 0.84119.",
    ),
    cases=gelu_cases,
    oracle=gelu_one_by_one,
    other_style=gelu_by(lambda x: x * ROOT * (1 + 0.044715 * x.square())),
    tolerance=NUMBER_BY_NUMBER,
    mistakes=(
        Mistake(
            "the cube is missing",
            gelu_by(lambda x: ROOT * (x + 0.044715 * x)),
            "The cube is missing: 0.044715 must multiply x to the power of 3. So printed, the formula is wrong by up "
            "to 0.024, fifty times as much as the right one; it stands so in many a collection of interview answers.",
        ),
        Mistake(
            "a square for the cube",
            gelu_by(lambda x: ROOT * (x + 0.044715 * x**2)),
            "You square x where the formula has its cube. A square has the same sign on both sides of 0, so your tanh "
            "is no longer odd, and positive and negative numbers are bent differently.",
        ),
        Mistake(
            "the exact GELU",
            lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
            "That is the exact GELU, x times Phi(x), and it is right as such. But here the tanh form is asked for: the "
            "two differ by up to 0.0005, and a model gives other logits if it is run with the one that it was not "
            "trained with.",
        ),
        Mistake(
            "the constant on x only",
            gelu_by(lambda x: ROOT * x + 0.044715 * x**3),
            "sqrt(2/pi) multiplies only x in your formula. It stands before the bracket and multiplies the cube too.",
        ),
        Mistake(
            "no constant",
            gelu_by(lambda x: x + 0.044715 * x**3),
            "sqrt(2/pi), about 0.8, is missing before the bracket. Without it the bend is too sharp: the slope at 0 is "
            "right, but the curvature is not.",
        ),
        Mistake(
            "the fraction upside down",
            gelu_by(lambda x: math.sqrt(math.pi / 2) * (x + 0.044715 * x**3)),
            "The constant is the root of 2/pi, about 0.798. You took that of pi/2, about 1.253.",
        ),
        Mistake(
            "no 1 +",
            lambda x: x / 2 * torch.tanh(ROOT * (x + 0.044715 * x**3)),
            "The 1 + before tanh is missing. tanh runs from -1 to 1, and the factor must run from 0 (shut) to 1 "
            "(open): add 1, then halve. Yours is |x|/2 far from 0 on both sides.",
        ),
        Mistake(
            "not halved",
            lambda x: x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))),
            "Everything is twice too large: for large x GELU must be x itself. Half of x times (1 + tanh).",
        ),
        Mistake(
            "quick GELU",
            lambda x: x * torch.sigmoid(1.702 * x),
            "That is x * sigmoid(1.702 x), another approximation (CLIP was trained with it), forty times as far from "
            "GELU as the tanh form.",
        ),
    ),
)


def swish_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), 2.0), {}
    yield (draw.normal(*draw.sizes(2, 3, 7), scale=2.0),), {}
    for dtype in (torch.float32, torch.float64):
        beta = torch.tensor(draw.size(3, 30) / 10, dtype=dtype, requires_grad=True)
        yield (draw.normal(*draw.sizes(2, 2, 6), scale=2.0, dtype=dtype), beta), {}
    yield (draw.normal(9, scale=50.0), draw.size(20, 40) / 10), {}


def value_and_slope(function: Callable[..., Tensor], x: Tensor, *beta: Any) -> Any:
    r"""What the function gives; and, where beta is to be trained, the gradient that reaches it."""
    value = function(x, *beta)
    if not (isinstance(value, Tensor) and beta and isinstance(beta[0], Tensor)):
        return value
    (slope,) = torch.autograd.grad(value.sum(), beta[0]) if value.requires_grad else (torch.zeros_like(beta[0]),)
    return {"value": value.detach(), "gradient of beta": slope}


def swish_one_by_one(x: Tensor, beta: Any = 1.0) -> Any:
    r"""By the formula, number by number; the slope in beta is x * x * s * (1 - s)."""

    sharpness = beta.item() if isinstance(beta, Tensor) else beta

    def opened(number: float) -> float:
        z = sharpness * number
        return 1 / (1 + math.exp(-z)) if z > -300 else 0.0

    numbers = x.flatten().tolist()
    value = torch.tensor([number * opened(number) for number in numbers], dtype=x.dtype).view_as(x)
    if not isinstance(beta, Tensor):
        return value
    slope = sum(number**2 * opened(number) * (1 - opened(number)) for number in numbers)
    return {"value": value, "gradient of beta": torch.tensor(slope, dtype=beta.dtype)}


SWISH = Exercise(
    id="layers.activations.swish",
    lesson="06",
    title="Swish",
    task="Write `x * sigmoid(beta * x)`. `beta` is a number, or a tensor of one number that is trained: then its "
    "gradient must come through.",
    difficulty=1,
    minutes=4,
    points=1,
    seed=62,
    hints=(
        "The sigmoid decides how far the gate is open, between 0 and 1; the number that passes through it is x itself.",
        "`torch.sigmoid` takes a tensor. A tensor times a tensor of one number is again a tensor, and keeps gradients.",
    ),
    cases=swish_cases,
    oracle=swish_one_by_one,
    probe=value_and_slope,
    other_style=lambda x, beta=1.0: x / (1 + torch.exp(-beta * x)),
    tolerance=NUMBER_BY_NUMBER,
    mistakes=(
        Mistake(
            "beta unused",
            lambda x, beta=1.0: x * torch.sigmoid(x),
            "beta has no effect: what you wrote is SiLU, Swish with beta 1. beta multiplies x inside the sigmoid.",
        ),
        Mistake(
            "beta outside",
            lambda x, beta=1.0: beta * x * torch.sigmoid(x),
            "beta stands outside the sigmoid and only stretches the result. Inside, it decides how sharp the bend is.",
        ),
        Mistake(
            "beta on both",
            lambda x, beta=1.0: beta * x * torch.sigmoid(beta * x),
            "You multiply by beta outside of the sigmoid too. For large x Swish must be x itself, whatever beta is.",
        ),
        Mistake(
            "the sigmoid alone",
            lambda x, beta=1.0: torch.sigmoid(beta * x),
            "That is the gate without anything that passes through it: multiply by x.",
        ),
        Mistake(
            "the sign turned round",
            lambda x, beta=1.0: x * torch.sigmoid(-beta * x),
            "The gate is open on the wrong side: large positive numbers are shut out. sigmoid(z) = 1 / (1 + exp(-z)).",
        ),
        Mistake(
            "tanh for the sigmoid",
            lambda x, beta=1.0: x * torch.tanh(beta * x),
            "You took tanh, which runs from -1 to 1: negative numbers come out positive. The sigmoid runs from 0 to 1.",
        ),
        Mistake(
            "beta cut off from its gradient",
            lambda x, beta=1.0: x * torch.sigmoid(torch.as_tensor(beta).detach() * x),
            "The values are right, but no gradient reaches beta (`float(beta)`, `.item()` or `.detach()` cuts it off): "
            "a beta that is to be trained would stay where it is.",
        ),
    ),
)
