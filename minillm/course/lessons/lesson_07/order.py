r"""The mask of a permutation language model."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def order_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([2, 0, 3, 1]), True), {}
    yield (torch.tensor([2, 0, 3, 1]), False), {}
    for itself in (True, False):
        order = torch.randperm(draw.size(5, 9), generator=draw.generator)
        yield (order.roll(1) if torch.equal(order, order.argsort()) else order, itself), {}


def by_walking_the_order(order: Tensor, sees_itself: bool) -> Tensor:
    mask = torch.zeros(len(order), len(order), dtype=torch.bool)
    known: list[int] = []
    for place in order.tolist():
        mask[place, known + [place] * sees_itself] = True
        known.append(place)
    return mask


def order_by(
    ranks: Callable[[Tensor], Tensor] = lambda order: order.argsort(),
    rule: Callable[[Tensor, Tensor, bool], Tensor] = lambda q, k, itself: (k <= q) if itself else (k < q),
) -> Callable[[Tensor, bool], Tensor]:
    r"""A mask with other ranks, or another rule on the ranks of query and key."""

    def wrong(order: Tensor, sees_itself: bool) -> Tensor:
        r = ranks(order)
        return rule(r[:, None], r[None, :], sees_itself)

    return wrong


PERMUTATION_MASK = Exercise(
    id="layers.permutation.permutation_mask",
    lesson="07",
    title="Any order you like",
    task="`order` says which position is predicted first, second, ...: `[2, 0, 3, 1]` means position 2, then 0, then "
    "3, then 1. Give the mask, (T, T): position i may see position j if j comes before i *in that order*; with "
    "`sees_itself` it also sees itself. Rows and columns are positions in the text, which stays as it is.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=78,
    hints=(
        "Draw the mask for [2, 0, 3, 1] on paper. Who comes first sees nobody; who comes last sees all.",
        "You need the rank of each position: in the example position 0 has rank 1, since it is predicted second. Which "
        "list of four ranks is that?",
        "The ranks are the inverse of the order. `argsort` of a permutation is its inverse.",
        "With ranks, it is the causal mask again: compare the rank of the query with the rank of the key.",
    ),
    cases=order_cases,
    oracle=by_walking_the_order,
    other_style=order_by(),
    tolerance=Tolerance(0.0, 0.0, "true or false"),
    mistakes=(
        Mistake(
            "order taken for ranks",
            order_by(ranks=lambda order: order),
            "You compare `order[i]` with `order[j]`, as if order[i] were the rank of position i. It is the other way "
            "round: order[t] is the position that has rank t. Invert it first.",
        ),
        Mistake(
            "causal in the text",
            order_by(ranks=lambda order: torch.arange(len(order))),
            "This is the ordinary causal mask, a triangle. Either you compare positions instead of ranks, or you have "
            "put the rows and columns into the order of prediction: row i must be position i of the text.",
        ),
        Mistake(
            "the future seen",
            order_by(rule=lambda q, k, itself: (k >= q) if itself else (k > q)),
            "The comparison is turned round: each position sees those that are predicted *after* it. Rows are queries: "
            "a key is visible if its rank is smaller than the query's.",
        ),
        Mistake(
            "always sees itself",
            order_by(rule=lambda q, k, itself: k <= q),
            "Every position sees itself, also with sees_itself=False. The stream that has to predict a token must not "
            "see that token, or there is nothing left to predict.",
        ),
        Mistake(
            "never sees itself",
            order_by(rule=lambda q, k, itself: k < q),
            "No position sees itself, also with sees_itself=True. In the content stream a token's vector is made from "
            "the token too.",
        ),
    ),
)
