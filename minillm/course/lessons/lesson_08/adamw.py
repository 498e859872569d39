r"""One step of AdamW."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Three = tuple[Tensor, Tensor, Tensor]


def adamw_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for dtype in (torch.float32, torch.float64):
        for step, settings in (
            (1, {}), (draw.size(2, 5), {"weight_decay": 0.5}), (draw.size(2, 40), {"eps": 0.1, "betas": (0.8, 0.99)}),
        ):
            shape = draw.sizes(2, 2, 5)
            param, grad = draw.normal(*shape, dtype=dtype), draw.normal(*shape, dtype=dtype, scale=0.3)
            first, second = torch.zeros_like(param), torch.zeros_like(param)
            if step > 1:
                first = draw.normal(*shape, dtype=dtype, scale=0.2)
                second = draw.normal(*shape, dtype=dtype, scale=0.2).square() + 1e-3
            yield (param, grad, first, second, step, draw.size(2, 9) / 20), settings
    yield (param, grad, first, second, 0, 0.1), {}


def weight_by_weight(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.1,
) -> Three:
    if step < 1:
        raise ValueError("step")
    rows = []
    for w, g, m, s in zip(*(x.flatten().tolist() for x in (param, grad, exp_avg, exp_avg_sq)), strict=True):
        m, s = g + betas[0] * (m - g), g * g + betas[1] * (s - g * g)
        root = math.sqrt(s / -math.expm1(step * math.log(betas[1])))
        slope = m / -math.expm1(step * math.log(betas[0]))
        rows.append((w - learning_rate * (slope / (root + eps) + weight_decay * w), m, s))
    new = torch.tensor(rows, dtype=torch.float64).to(param.dtype).T
    return tuple(x.reshape(param.shape) for x in new)


def with_lerp(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.1,
) -> Three:
    if step <= 0:
        raise ValueError(f"step={step}: counted from 1")
    first = exp_avg.lerp(grad, 1 - betas[0])
    second = exp_avg_sq * betas[1] + grad.pow(2) * (1 - betas[1])
    denominator = second.sqrt().div(math.sqrt(1 - betas[1] ** step)).add(eps)
    moved = param.mul(1 - learning_rate * weight_decay).addcdiv(
        first, denominator, value=-learning_rate / (1 - betas[0] ** step))
    return moved, first, second


def adamw_by(
    slope: Callable[..., Tensor] = lambda grad, param, decay: grad,
    average: Callable[[Tensor, Tensor, float], Tensor] = lambda old, new, beta: beta * old + (1 - beta) * new,
    squared: Callable[[Tensor, Tensor], Tensor] = lambda grad, average: grad * grad,
    correct: Callable[[Tensor, float, int], Tensor] = lambda x, beta, step: x / (1 - beta**step),
    root: Callable[[Tensor, float], Tensor] = lambda s, eps: s.sqrt() + eps,
    decay_by: Callable[[float, float], float] = lambda rate, decay: rate * decay,
    sign: int = -1,
    order: tuple[int, int] = (0, 1),
    keep_corrected: bool = False,
    check: bool = True,
) -> Callable[..., Three]:
    r"""An adamw_step in which one thing is done in another way."""

    def wrong(
        param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.1,
    ) -> Three:
        if check and step < 1:
            raise ValueError("step")
        b1, b2 = betas[order[0]], betas[order[1]]
        g = slope(grad, param, weight_decay)
        m = average(exp_avg, g, b1)
        s = average(exp_avg_sq, squared(g, m), b2)
        mean, mean_square = correct(m, b1, step), correct(s, b2, step)
        moved = param * (1 - decay_by(learning_rate, weight_decay)) + sign * learning_rate * mean / root(
            mean_square, eps)
        return (moved, mean, mean_square) if keep_corrected else (moved, m, s)

    return wrong


ADAMW_STEP = Exercise(
    id="training.adamw.adamw_step",
    lesson="08",
    title="One step of AdamW",
    task="Six lines turn a gradient into changed weights; return the new weights and both new averages.\n\n"
    "$$m \\leftarrow \\beta_1 m + (1-\\beta_1) g \\qquad s \\leftarrow \\beta_2 s + (1-\\beta_2) g^2$$\n\n"
    "$$w \\leftarrow (1 - \\eta\\lambda)\\, w - \\eta\\, \\frac{m / (1-\\beta_1^t)}"
    "{\\sqrt{s / (1-\\beta_2^t)} + \\epsilon}$$\n\n"
    "$m$ is `exp_avg`, $s$ is `exp_avg_sq`, $t$ is `step` (from 1; refuse less by a ValueError), $\\eta$ is "
    "`learning_rate` and $\\lambda$ is `weight_decay`. Change nothing in place.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=81,
    hints=(
        "Go through the formulas from left to right; each is one line. `betas` is a pair.",
        "The averages that you *return* are the plain ones, m and s. The divisions by 1 - beta**step are only for this "
        "step's move.",
        "The decay shrinks the weight itself. It never becomes part of the gradient, or the square root would divide "
        "it away for weights with large gradients.",
    ),
    cases=adamw_cases,
    oracle=weight_by_weight,
    other_style=with_lerp,
    tolerance=Tolerance(2e-5, 1e-6, "float32 products taken in another order"),
    mistakes=(
        Mistake(
            "decay through the gradient",
            adamw_by(slope=lambda g, w, decay: g + decay * w, decay_by=lambda rate, decay: 0.0),
            "You add weight_decay * param to the gradient. That is Adam with an L2 penalty: the root then divides the "
            "pull away where gradients are large. The W of AdamW shrinks the weight directly, beside Adam's move.",
        ),
        Mistake(
            "decay without the learning rate",
            adamw_by(decay_by=lambda rate, decay: decay),
            "You shrink by weight_decay in each step. Here, as in torch, it is weight_decay * learning_rate: otherwise "
            "a weight would lose a tenth of itself each step, also when the schedule has come down to zero.",
        ),
        Mistake(
            "no weight decay",
            adamw_by(decay_by=lambda rate, decay: 0.0),
            "The weights are not pulled towards zero: `weight_decay` is not used. This is Adam without the W.",
        ),
        Mistake(
            "no correction",
            adamw_by(correct=lambda x, beta, step: x),
            "The averages are used as they are. They began at zero, so in the first steps they are far too small, the "
            "one of the squares most of all: divide each by 1 - beta**step.",
        ),
        Mistake(
            "corrected averages kept",
            adamw_by(keep_corrected=True),
            "You return the corrected averages, so the next step would correct them once more. Return m and s as they "
            "are before the division; the correction is for this step's move only.",
        ),
        Mistake(
            "betas swapped",
            adamw_by(order=(1, 0)),
            "betas[0] belongs to the average of the gradients, betas[1] to that of their squares; you have them the "
            "other way round.",
        ),
        Mistake(
            "beta on the new gradient",
            adamw_by(average=lambda old, new, beta: (1 - beta) * old + beta * new),
            "Your averages keep 1 - beta of the old value and take beta of the new one. With beta = 0.9 nine tenths "
            "are old and one tenth is new.",
        ),
        Mistake(
            "square of the average",
            adamw_by(squared=lambda grad, average: average * average),
            "exp_avg_sq takes the square of the averaged gradient. It must take the square of this step's gradient: a "
            "gradient that flips its sign has a small average and a large mean square, and that is what Adam looks at.",
        ),
        Mistake(
            "no root",
            adamw_by(root=lambda s, eps: s + eps),
            "You divide by the mean square, not by its root. The step would have the unit of one over a gradient; with "
            "the root it has none, and the learning rate alone sets its size.",
        ),
        Mistake(
            "eps inside the root",
            adamw_by(root=lambda s, eps: (s + eps).sqrt()),
            "eps stands inside the root. AdamW adds it to the root; with eps = 1e-8 inside, the least denominator "
            "would be 1e-4, and weights with tiny gradients would hardly move.",
        ),
        Mistake(
            "uphill",
            adamw_by(sign=1),
            "The weights move along the gradient, which is where the loss grows. Subtract the move.",
        ),
        Mistake(
            "step 0 accepted",
            adamw_by(check=False, correct=lambda x, beta, step: x / (1 - beta ** max(step, 1))),
            "A step of 0 goes through. Steps are counted from 1; at 0 the correction would divide by zero, so refuse "
            "it by a ValueError that says so.",
        ),
    ),
)
