r"""Find the bug: inputs and targets."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def found_in_the_wild(rows: Tensor, pad_id: int, ignored: int = -100) -> tuple[Tensor, Tensor]:
    r"""The function as it was found, bug included; the text of the exercise shows it."""
    inputs = rows[:, :-1]
    targets = inputs.clone()
    targets[targets == pad_id] = ignored
    return inputs, targets


def shift_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (padded_rows(draw, 2, 5, 0), 0), {}
    b, n = draw.sizes(2, 4, 8)
    yield (padded_rows(draw, b, n, 0), 0), {}
    yield (padded_rows(draw, b, n, 3), 3), {}
    yield (padded_rows(draw, n, b + 2, 0), 0, -1), {}


def padded_rows(draw: Draw, batch_size: int, row_len: int, pad_id: int) -> Tensor:
    r"""Rows of different lengths, the first of them full."""
    rows = draw.integers(4, 30, batch_size, row_len)
    lengths = draw.integers(2, row_len - 1, batch_size)
    lengths[0] = row_len
    return rows.masked_fill(torch.arange(row_len) >= lengths[:, None], pad_id)


def token_by_token(rows: Tensor, pad_id: int, ignored: int = -100) -> tuple[Tensor, Tensor]:
    inputs, targets = [], []
    for row in rows.tolist():
        inputs.append([row[t] for t in range(len(row) - 1)])
        targets.append([ignored if row[t + 1] == pad_id else row[t + 1] for t in range(len(row) - 1)])
    return torch.tensor(inputs), torch.tensor(targets)


def shifted_by(cut: Callable[[Tensor], tuple[Tensor, Tensor]], ignore: bool = True) -> Callable[..., Any]:
    r"""A function that cuts inputs and targets in another way."""

    def wrong(rows: Tensor, pad_id: int, ignored: int = -100) -> tuple[Tensor, Tensor]:
        inputs, targets = cut(rows)
        return inputs, torch.where(targets == pad_id, ignored, targets) if ignore else targets

    return wrong


def padding_marked_in_the_inputs(rows: Tensor, pad_id: int, ignored: int = -100) -> tuple[Tensor, Tensor]:
    marked = torch.where(rows == pad_id, ignored, rows)
    return marked[:, :-1], marked[:, 1:]


SHIFT_ROWS = Exercise(
    id="text.batches.shift_rows",
    lesson="07",
    title="Find the bug",
    task="This function makes inputs and targets from padded rows. It runs, the loss falls, and the model is "
    "useless:\n\n```python\n"
    "def shift_rows(rows, pad_id, ignored=-100):\n"
    "    inputs = rows[:, :-1]\n"
    "    targets = inputs.clone()\n"
    "    targets[targets == pad_id] = ignored\n"
    "    return inputs, targets\n"
    "```\n\n"
    "The experiment above has shown what it does to a model. Say in a sentence what is wrong, then write it as it "
    "should be: row by row, the target at position t is the token at t + 1, and where that is padding it is `ignored`.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=79,
    hints=(
        "Write down inputs and targets for the row [1, 7, 8, 2, 0] with pad_id 0, by the code and by the description.",
        "A row of n tokens gives n - 1 pairs. Which n - 1 tokens are inputs, which n - 1 are targets?",
        "`inputs` is right. `rows[:, 1:]` is the same row without its first token.",
    ),
    cases=shift_cases,
    oracle=token_by_token,
    other_style=shifted_by(lambda rows: (rows[:, :-1], rows[:, 1:])),
    tolerance=Tolerance(0.0, 0.0, "token ids"),
    mistakes=(
        Mistake(
            "not shifted",
            found_in_the_wild,
            "The bug is still there: the targets are the inputs themselves. The model is asked to name the token that "
            "it has just been given, which needs no understanding at all: its loss falls to 0.",
        ),
        Mistake(
            "shifted twice",
            shifted_by(lambda rows: (rows[:, :-2], rows[:, 2:])),
            "Now the targets are two steps ahead: the model learns to skip a token. This happens when the batch shifts "
            "and the loss shifts once more.",
        ),
        Mistake(
            "rolled",
            shifted_by(lambda rows: (rows, rows.roll(-1, dims=1))),
            "You roll the row, so the last target is the row's first token: the model learns that a text is followed "
            "by its own beginning. A row of n tokens has only n - 1 next tokens.",
        ),
        Mistake(
            "shifted backwards",
            shifted_by(lambda rows: (rows[:, 1:], rows[:, :-1])),
            "You shift in the wrong direction: the target is the token *before*. A causal model has seen that one, so "
            "its loss falls to 0 here too, and it learns nothing about the future.",
        ),
        Mistake(
            "padding learned",
            shifted_by(lambda rows: (rows[:, :-1], rows[:, 1:]), ignore=False),
            "The shift is right, but padding is a target like any other: most of the model's effort goes into saying "
            "padding after padding, and the mean loss looks better than it is. Set these targets to `ignored`.",
        ),
        Mistake(
            "padding marked in the inputs",
            padding_marked_in_the_inputs,
            "You put `ignored` into the inputs too. -100 is no token: the embedding has no row for it. Only the "
            "targets are marked.",
        ),
    ),
)
