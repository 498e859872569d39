r"""A linear layer over whole numbers."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def product_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for shape, bias in ((lambda t: (t,), True), (lambda t: (2, t), True), (lambda t: (), False)):
        t, c, r = draw.sizes(3, 3, 9)
        yield (draw.normal(*shape(t), c), *_layer(draw, r, c)), {"bias": draw.normal(r)} if bias else {}
    r, c = draw.sizes(2, 4, 8)
    yield (draw.normal(r, c), *_layer(draw, r, c), draw.normal(r)), {}  # as many tokens as outputs
    yield (draw.normal(4, c, dtype=torch.float64), *_layer(draw, r, c)), {}
    large = draw.integers(100, 127, 3, 96).to(torch.int8), draw.integers(20, 90, 3, 1) / 50000
    yield (draw.normal(2, 96).abs().add(8).half(), *large), {}  # sums far beyond 65504
    yield (draw.normal(2, 96).abs().add(1).bfloat16(), *large), {}


def _layer(draw: Draw, d_out: int, d_in: int) -> tuple[Tensor, Tensor]:
    return draw.integers(-127, 127, d_out, d_in).to(torch.int8), draw.integers(20, 90, d_out, 1) / 5000


def restored_and_summed(x: Tensor, q_weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Output by output, from a restored row, in double precision."""
    rows = [(x.double() * (codes.double() * scale.double())).sum(-1)
            for codes, scale in zip(q_weight, scales, strict=True)]
    out = torch.stack(rows, dim=-1)
    return (out if bias is None else out + bias.double()).to(x.dtype)


def product_with(
    rule: Callable[[Tensor, Tensor, Tensor, Any], Tensor], keep_dtype: bool = True
) -> Callable[..., Tensor]:
    r"""A product by another rule of (x, codes as floats, scales (R,), bias or 0), computed in float32 or wider."""

    def function(x: Tensor, q_weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        out = rule(wide, q_weight.to(wide.dtype), scales[:, 0], 0.0 if bias is None else bias)
        return out.to(x.dtype) if keep_dtype else out

    return function


def in_the_dtype_of_x(x: Tensor, q_weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    out = (x @ q_weight.to(x.dtype).T) * scales[:, 0]
    return (out if bias is None else out + bias).to(x.dtype)


def scales_as_they_come(x: Tensor, q_weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    out = (wide @ q_weight.to(wide.dtype).T) * scales
    return (out if bias is None else out + bias).to(x.dtype)


def whole_activations(x: Tensor, q_weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    out = (x.to(torch.int8).float() @ q_weight.float().T) * scales[:, 0]
    return (out if bias is None else out + bias).to(x.dtype)


INT8_LINEAR = Exercise(
    id="inference.quantization.int8_linear.int8_linear",
    lesson="11",
    title="Multiply, then scale",
    task="A linear layer whose weights are stored as int8 `q_weight` (R, C) and one scale a row, `scales` (R, 1). "
    "Give x @ (q_weight * scales).T, plus `bias` where there is one, in the dtype of x, which has any number of axes. "
    "Find the form in which the scaled matrix is never made: with C inputs that is C times fewer multiplications by "
    "scales. The activations stay floats.\n\n"
    "Mind float16: it ends at 65504, and a sum of codes up to 127 times activations gets there.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=112,
    hints=(
        "Write one output as a sum over C. Every term has the same factor: which?",
        "The result of x @ q_weight.T has R as its last axis. Along which axis must the R scales lie to meet it?",
        "int8 and float do not multiply in `@`: cast the codes. In which dtype can the sums of a float16 x be kept, "
        "until they are scaled?",
    ),
    cases=product_cases,
    oracle=restored_and_summed,
    other_style=product_with(lambda x, q, s, b: torch.einsum("...c,rc->...r", x, q) * s + b),
    tolerance=Tolerance(1e-5, 2e-5, "float32 sums of some hundred terms, in another order"),
    mistakes=(
        Mistake(
            "no scale",
            product_with(lambda x, q, s, b: x @ q.T + b),
            "You multiply with the codes and forget the scales: the weights are some fifty times as large as they "
            "were.",
        ),
        Mistake(
            "zeros",
            product_with(lambda x, q, s, b: torch.zeros(*x.shape[:-1], len(q), dtype=x.dtype)),
            "The result is 0 throughout. Has something been cast to a whole number on the way, such as the scales?",
        ),
        Mistake(
            "scales along the tokens",
            scales_as_they_come,
            "`scales` is (R, 1) and your product (..., R): where the shapes meet at all, each *token* gets a scale, "
            "not each output. Turn the scales: `scales.T`, or `scales[:, 0]`.",
        ),
        Mistake(
            "one scale for all rows",
            product_with(lambda x, q, s, b: (x @ q.T) * s.mean() + b),
            "You use a mean of the scales for all outputs. Each row has its own: that was the point of rows.",
        ),
        Mistake(
            "divided",
            product_with(lambda x, q, s, b: (x @ q.T) / s + b),
            "You divide by the scales. A weight is code * scale.",
        ),
        Mistake(
            "scaled twice",
            product_with(lambda x, q, s, b: (x @ (q * s[:, None]).T) * s + b),
            "The scales come in twice: into the matrix, and into the result. Once is enough, and the result has fewer "
            "numbers.",
        ),
        Mistake(
            "bias scaled as well",
            product_with(lambda x, q, s, b: (x @ q.T + b) * s),
            "You add the bias before scaling. It was never rounded, and so it must not be scaled: add it at the end.",
        ),
        Mistake(
            "no bias",
            product_with(lambda x, q, s, b: (x @ q.T) * s),
            "The bias is missing: where there is one, it is added to the scaled sums.",
        ),
        Mistake(
            "whole activations",
            whole_activations,
            "You cast x to int8, which cuts 0.7 to 0. Only the weights are whole numbers here. (To round activations "
            "as well, they need scales of their own: that comes later in this lesson.)",
        ),
        Mistake(
            "too large for float16",
            in_the_dtype_of_x,
            "With x in float16 you keep the sums in float16 too. They are up to 127 times as large as those of the "
            "layer itself, and beyond 65504 there is only inf. Sum in float32, scale, then go back to x's dtype.",
        ),
        Mistake(
            "float32 returned",
            product_with(lambda x, q, s, b: (x @ q.T) * s + b, keep_dtype=False),
            "For x in half precision you return float32: the next layer, and the cache, would take twice the memory. "
            "Cast the result to x's dtype.",
        ),
    ),
)
