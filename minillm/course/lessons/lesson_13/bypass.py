r"""The change beside the base."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Rule = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def bypass_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    one = torch.ones
    yield (torch.tensor([2.0, 1.0]), torch.tensor([10.0]), torch.tensor([[3.0, 1.0]]), 2 * one(1, 1), 0.5), {}
    for batch in ((), (draw.size(3, 5),), (2, draw.size(3, 5))):
        d_in, d_out, rank = draw.sizes(3, 4, 9)
        yield _layer_and_change(draw, batch, d_in, d_out, min(rank, d_in, d_out) - 1), {}
    side = draw.size(4, 6)
    yield _layer_and_change(draw, (3,), side, side, side), {}  # all sides equal: nothing fails by its shape
    yield _layer_and_change(draw, (2, side), side, side, 1), {}
    # Whole numbers: bfloat16 holds every change, so that it is the same cast before the sum or after it.
    x, base, a, b = (draw.integers(-2, 2, *shape).float() for shape in ((4, draw.size(5, 7)), (4, 3), (2, 7), (3, 2)))
    yield (x.bfloat16(), base.bfloat16(), a[:, : x.shape[1]].contiguous(), b, draw.choice((0.25, 0.5, 2.0))), {}


def _layer_and_change(
    draw: Draw, batch: tuple[int, ...], d_in: int, d_out: int, rank: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    scaling = draw.choice((0.25, 0.5, 2.0, 4.0))
    return (draw.normal(*batch, d_in), draw.normal(*batch, d_out), draw.normal(rank, d_in), draw.normal(d_out, rank),
            scaling)


def one_row_after_another(x: Tensor, base: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    r"""Token by token, sums of Python numbers."""
    a, b = lora_a.double().tolist(), lora_b.double().tolist()
    out = []
    for token in x.double().reshape(-1, x.shape[-1]).tolist():
        inner = [sum(weight * value for weight, value in zip(row, token, strict=True)) for row in a]
        out.append([scaling * sum(weight * value for weight, value in zip(row, inner, strict=True)) for row in b])
    return (base.double() + torch.tensor(out, dtype=torch.float64).reshape(base.shape)).to(base.dtype)


def bypass_with(rule: Rule, keep_dtype: bool = True) -> Callable[..., Tensor]:
    r"""Another rule of (x, base, A, B, scaling), in the dtype of the factors."""

    def function(x: Tensor, base: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
        out = rule(x.to(lora_a.dtype), base.to(lora_a.dtype), lora_a, lora_b, scaling)
        return out.to(base.dtype) if keep_dtype else out

    return function


def added_in_place(x: Tensor, base: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    base += (scaling * (x.to(lora_a.dtype) @ lora_a.T @ lora_b.T)).to(base.dtype)
    return base


LORA_FORWARD = Exercise(
    id="tuning.low_rank.lora_forward",
    lesson="13",
    title="The change beside the base",
    task="`base` (..., d_out) is what the frozen layer made of `x` (..., d_in). Add what the change says: `scaling` "
    "times B A x, for each token, where `lora_a` is (rank, d_in) and `lora_b` (d_out, rank). A token is a row of x, as "
    "everywhere in this course. `scaling` is alpha / rank, computed already.\n\n"
    "Never make the matrix B A: go through the narrow middle, (..., rank). The factors are float32; x and base may be "
    "bfloat16, and the result has the dtype of base.",
    difficulty=1,
    minutes=10,
    points=2,
    seed=132,
    hints=(
        "One token, x of size d_in: which shape has A x, which B (A x)? Count the multiplications, and those of (B A) "
        "x.",
        "Tokens are rows, so a linear layer multiplies with its matrix transposed: x @ weight.T. Two layers, one after "
        "the other.",
        "`x.to(lora_a.dtype)` makes the types of a product agree; what was computed is cast before it is added, or "
        "after.",
    ),
    cases=bypass_cases,
    oracle=one_row_after_another,
    other_style=bypass_with(lambda x, base, a, b, s: base + s * torch.einsum("...i,ri,or->...o", x, a, b)),
    tolerance=Tolerance(2e-5, 2e-5, "two float32 products, in another order"),
    mistakes=(
        Mistake(
            "no scaling",
            bypass_with(lambda x, base, a, b, s: base + x @ a.T @ b.T),
            "You forgot alpha / rank. With it, a learning rate that was found at one rank serves at others too; "
            "without it, every change of the rank changes the length of the steps.",
        ),
        Mistake(
            "scaling over the rank once more",
            bypass_with(lambda x, base, a, b, s: base + s / len(a) * (x @ a.T @ b.T)),
            "You divide by the rank a second time. `scaling` is alpha / rank already.",
        ),
        Mistake(
            "divided by scaling",
            bypass_with(lambda x, base, a, b, s: base + (x @ a.T @ b.T) / s),
            "You divide by `scaling`. It is a factor: a larger alpha makes a larger change.",
        ),
        Mistake(
            "scaled twice",
            bypass_with(lambda x, base, a, b, s: base + (s * x @ a.T) @ (s * b.T)),
            "The scaling comes in twice: once for each factor. Their product then has its square.",
        ),
        Mistake(
            "base scaled too",
            bypass_with(lambda x, base, a, b, s: s * (base + x @ a.T @ b.T)),
            "You scale the base as well. With B zero the model has to be exactly the base; yours is it times "
            "`scaling`.",
        ),
        Mistake(
            "base lost",
            bypass_with(lambda x, base, a, b, s: s * (x @ a.T @ b.T)),
            "Only the change is left, and the layer itself is gone. LoRA does not factorize the weight: it adds to it.",
        ),
        Mistake(
            "base times the change",
            bypass_with(lambda x, base, a, b, s: base * (s * (x @ a.T @ b.T))),
            "You multiply the base by the change. The change is added: W x + scaling * B A x is one matrix again, and "
            "that is why it can be merged.",
        ),
        Mistake(
            "transposed",
            bypass_with(lambda x, base, a, b, s: base + s * (x @ a @ b)),
            "The factors are not transposed. x @ lora_a is a product over the rank where it should be one over d_in; "
            "where all sides are equal, nothing fails, and the result is wrong.",
        ),
        Mistake(
            "B before A",
            bypass_with(lambda x, base, a, b, s: base + s * (x @ b.T @ a.T)),
            "You go through B first. A leads from d_in down to the rank, B from the rank up to d_out.",
        ),
        Mistake(
            "bent in the middle",
            bypass_with(lambda x, base, a, b, s: base + s * (torch.relu(x @ a.T) @ b.T)),
            "You put a ReLU in the middle. That is an adapter: it can say more, but it is no matrix any more, and can "
            "never be merged into the weight.",
        ),
        Mistake(
            "added in place",
            added_in_place,
            "The numbers are right, but you have added the change to the caller's own tensor (`+=`). Whoever uses "
            "`base` once more, to compare it or to hook another adapter in, finds your change in it.",
        ),
        Mistake(
            "dtype of the factors",
            bypass_with(lambda x, base, a, b, s: base + s * (x @ a.T @ b.T), keep_dtype=False),
            "float32 factors have turned a bfloat16 result into a float32 one, and everything that follows in the "
            "model with it. Cast to the dtype of `base`.",
        ),
    ),
)
