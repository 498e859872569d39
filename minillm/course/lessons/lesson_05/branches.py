r"""Pre-norm branches in a row."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Step = Callable[[Tensor], Tensor]
Branches = Sequence[tuple[Step, Step]]


def branch_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for n_branches, dtype in ((1, torch.float32), (2, torch.float32), (3, torch.float64)):
        shape = draw.sizes(3, 2, 6)
        branches = [random_branch(draw, shape[-1], dtype) for _ in range(n_branches)]
        yield (draw.normal(*shape, dtype=dtype, scale=3.0), branches), {}
    yield (draw.normal(draw.size(2, 6)), []), {}


def random_branch(draw: Draw, d_model: int, dtype: torch.dtype) -> tuple[Step, Step]:
    r"""A norm with weights of its own, and a part that is not linear."""
    gain, matrix = draw.normal(d_model, dtype=dtype) + 1.0, draw.normal(d_model, d_model, dtype=dtype)
    return (
        lambda x: x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * gain,
        lambda x: torch.tanh(x @ matrix) * 2.0 + 0.5,
    )


def sum_of_answers(x: Tensor, branches: Branches) -> Tensor:
    r"""The input plus what each branch answers to the sum so far."""
    answers: list[Tensor] = []
    for norm, part in branches:
        answers.append(part(norm(sum(answers, x))))
    return torch.stack([x, *answers]).sum(0)


def one_after_the_other(x: Tensor, branches: Branches) -> Tensor:
    if not branches:
        return x
    (norm, part), *rest = branches
    return one_after_the_other(x + part(norm(x)), rest)


def chained(step: Callable[[Tensor, Tensor, Step, Step], Tensor]) -> Callable[..., Tensor]:
    r"""A block whose branch is step(stream, input of the block, norm, part)."""

    def block(x: Tensor, branches: Branches) -> Tensor:
        stream = x
        for norm, part in branches:
            stream = step(stream, x, norm, part)
        return stream

    return block


def on_the_normalized_copy(stream: Tensor, start: Tensor, norm: Step, part: Step) -> Tensor:
    copy = norm(stream)
    return copy + part(copy)


def in_place(x: Tensor, branches: Branches) -> Tensor:
    for norm, part in branches:
        x += part(norm(x))
    return x


PRE_NORM_BLOCK = Exercise(
    id="layers.residual.pre_norm_block",
    lesson="05",
    title="Pre-norm branches in a row",
    task="`branches` is a list of pairs (norm, part), all functions from (..., D) to (..., D). Each part in turn reads "
    "a normalized copy of the stream, and its answer is added to the stream. Two pairs make a block of a GPT, "
    "three a decoder block with cross-attention, ninety-six a model of 48 layers, none at all leaves x as it is.",
    difficulty=1,
    minutes=8,
    points=3,
    seed=55,
    hints=(
        "Draw the heavy line: x runs from top to bottom, and only a plus ever touches it.",
        "`for norm, part in branches:` and one line. Which of the three, x, its normalized copy, or the part's answer, "
        "goes into the part, and what is the sum made of?",
        "What the second part reads contains what the first has added.",
    ),
    cases=branch_cases,
    oracle=sum_of_answers,
    other_style=one_after_the_other,
    tolerance=Tolerance(2e-5, 1e-5, "a few sums of numbers near 10, possibly in another order"),
    mistakes=(
        Mistake(
            "no residuals",
            chained(lambda x, _, norm, part: part(norm(x))),
            "There are no residual connections: each part replaces the stream where it should add to it. In a deep "
            "stack nothing of the input arrives at the end, as you will measure.",
        ),
        Mistake(
            "post-norm",
            chained(lambda x, _, norm, part: norm(x + part(x))),
            "This is post-norm: you add first and normalize the sum. In pre-norm the norm stands inside the branch, "
            "before the part, and the stream itself is never normalized.",
        ),
        Mistake(
            "norm on the stream",
            chained(on_the_normalized_copy),
            "You add to the normalized copy, so that the stream goes through every norm after all. Hand the copy to "
            "the part only, and add its answer to x as it was.",
        ),
        Mistake(
            "norm after the part",
            chained(lambda x, _, norm, part: x + norm(part(x))),
            "You normalize what the part answers. Here the norm stands before the part. (Norms in both places are a "
            "design of their own, the sandwich.)",
        ),
        Mistake(
            "no norms",
            chained(lambda x, _, norm, part: x + part(x)),
            "The norms are never called. Then what a part reads grows with the stream.",
        ),
        Mistake(
            "all read the input",
            lambda x, branches: x + sum(part(norm(x)) for norm, part in branches),
            "All parts read x as it was at the start, side by side. That is the parallel block (GPT-J, PaLM). Here "
            "they come one after the other: the second reads what the first has added.",
        ),
        Mistake(
            "residual from the start",
            chained(lambda x, start, norm, part: start + part(norm(x))),
            "Each answer is added to the input of the block, so what the earlier branches have added is thrown away. "
            "Add to the stream as it is now.",
        ),
        Mistake(
            "stream not carried on",
            chained(lambda x, start, norm, part: start + part(norm(start))),
            "Only the last branch is left in what you return: the others' answers are computed and forgotten. Give the "
            "sum the name that the next round reads.",
        ),
        Mistake(
            "return inside the loop",
            lambda x, branches: one_after_the_other(x, branches[:1]),
            "You return after the first branch. The `return` belongs below the loop, not into it.",
        ),
        Mistake(
            "backwards",
            lambda x, branches: one_after_the_other(x, branches[::-1]),
            "You begin with the last branch. Go through them in the order of the list.",
        ),
        Mistake(
            "in place",
            in_place,
            "The values are right, but `x += ...` writes into the tensor that you were handed: the caller's x is "
            "changed as well. Write `x = x + ...`, which makes a new one.",
        ),
    ),
)
