r"""One matrix that does both."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def merging_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0], [0.0]]), 0.5), {}
    for _ in range(2):
        d_in, d_out, rank = draw.sizes(3, 4, 9)
        yield _matrix_and_factors(draw, d_in, d_out, min(rank, d_in, d_out) - 1), {}
    side = draw.size(4, 6)
    yield _matrix_and_factors(draw, side, side, side), {}  # nothing fails by its shape
    yield _matrix_and_factors(draw, side, side, 2), {}
    weight, a, b, scaling = _matrix_and_factors(draw, draw.size(4, 6), 7, 3)
    yield (weight, a, b, -scaling), {}  # the change is taken out again
    yield (weight.double(), a.double(), b.double(), scaling), {}
    # Whole numbers: bfloat16 holds every change, so that it is the same cast before the sum or after it.
    weight, a, b = (draw.integers(-2, 2, *each.shape).float() for each in (weight, a, b))
    yield (weight.bfloat16(), a, b, scaling), {}


def _matrix_and_factors(draw: Draw, d_in: int, d_out: int, rank: int) -> tuple[Tensor, Tensor, Tensor, float]:
    scaling = draw.choice((0.25, 0.5, 2.0, 4.0))
    return draw.normal(d_out, d_in), draw.normal(rank, d_in), draw.normal(d_out, rank), scaling


def one_number_of_the_matrix(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    r"""Each number of the matrix by a sum over the rank."""
    a, b = lora_a.double().tolist(), lora_b.double().tolist()
    merged = [[value + scaling * sum(b[i][r] * a[r][j] for r in range(len(a))) for j, value in enumerate(row)]
              for i, row in enumerate(weight.double().tolist())]
    return torch.tensor(merged, dtype=torch.float64).to(weight.dtype)


def merged_with(rule: Callable[[Tensor, Tensor, Tensor, float], Tensor], keep_dtype: bool = True) -> Callable[
    ..., Tensor
]:
    r"""Another rule of (weight, A, B, scaling), in the dtype of the factors."""

    def function(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
        out = rule(weight.to(lora_a.dtype), lora_a, lora_b, scaling)
        return out.to(weight.dtype) if keep_dtype else out

    return function


def one_outer_product_a_rank(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    merged = weight.to(lora_a.dtype)
    for column, row in zip(lora_b.T, lora_a, strict=True):
        merged = merged + scaling * torch.outer(column, row)
    return merged.to(weight.dtype)


def merged_in_place(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    weight += (scaling * (lora_b @ lora_a)).to(weight.dtype)
    return weight


LORA_MERGE = Exercise(
    id="tuning.low_rank.lora_merge",
    lesson="13",
    title="One matrix that does both",
    task="`base + scaling * (x A^T) B^T` is linear in x, so one matrix does the same at once. Give it: (d_out, d_in), "
    "in the dtype of `weight`, computed in that of the factors. It is a new matrix; `weight` stays as it is, for the "
    "base may serve other models too. With minus the scaling, the same function takes the change out again.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=133,
    hints=(
        "W x + s B (A x) = (W + ?) x.",
        "Which of the two products, `lora_a @ lora_b` and `lora_b @ lora_a`, has the shape of the weight? With a "
        "square weight and a full rank both do: think of what acts on x first.",
        "`weight += ...` writes into the caller's matrix. Run such a cell twice, and the change is in it twice.",
    ),
    cases=merging_cases,
    oracle=one_number_of_the_matrix,
    other_style=one_outer_product_a_rank,
    tolerance=Tolerance(2e-5, 2e-5, "a float32 product, in another order"),
    mistakes=(
        Mistake(
            "merged into the base itself",
            merged_in_place,
            "The numbers are right, but they stand in the caller's own matrix (`+=`, `add_`). Call it again and the "
            "change is merged twice; and every other model that shares this base has it now. Make a new matrix.",
        ),
        Mistake(
            "merged twice",
            merged_with(lambda w, a, b, s: w + s * (b @ a) + s * (b @ a)),
            "The change is in your matrix twice. So it happens when something that is merged already is merged again: "
            "the model is not broken, only too much of what it was to be, and that is hard to notice.",
        ),
        Mistake(
            "no scaling",
            merged_with(lambda w, a, b, s: w + b @ a),
            "You forgot alpha / rank. The model was trained with it: merged, it says something else than before.",
        ),
        Mistake(
            "scaling over the rank once more",
            merged_with(lambda w, a, b, s: w + s / len(a) * (b @ a)),
            "You divide by the rank a second time. `scaling` is alpha / rank already.",
        ),
        Mistake(
            "always added",
            merged_with(lambda w, a, b, s: w + abs(s) * (b @ a)),
            "A negative scaling is to take the change out again, and you add it once more.",
        ),
        Mistake(
            "subtracted",
            merged_with(lambda w, a, b, s: w - s * (b @ a)),
            "You subtract the change. That is what minus the scaling is for.",
        ),
        Mistake(
            "base lost",
            merged_with(lambda w, a, b, s: s * (b @ a)),
            "Only the change is left. LoRA does not replace the weight by two factors, it adds their product to it.",
        ),
        Mistake(
            "base scaled too",
            merged_with(lambda w, a, b, s: s * (w + b @ a)),
            "You scale the weight as well. The scaling belongs to the change alone.",
        ),
        Mistake(
            "transposed",
            merged_with(lambda w, a, b, s: w + s * (b @ a).T),
            "Your change lies on its side. Rows of a weight are outputs: B A is (d_out, d_in) as it is. With a square "
            "weight nothing fails when this goes wrong.",
        ),
        Mistake(
            "A before B",
            merged_with(lambda w, a, b, s: w + s * (a @ b)),
            "You multiply A by B. That is (rank, rank) where it is anything: B A it must be, B with its d_out rows on "
            "the left.",
        ),
        Mistake(
            "number by number",
            merged_with(lambda w, a, b, s: w + s * (b * a.T) if a.shape == b.T.shape else w + s * (b * a)),
            "You multiply number by number (`*`). A product of two matrices sums over the rank: `@`.",
        ),
        Mistake(
            "dtype of the factors",
            merged_with(lambda w, a, b, s: w + s * (b @ a), keep_dtype=False),
            "A bfloat16 weight has become float32, twice its size. Compute in the factors' dtype and cast the sum.",
        ),
    ),
)
