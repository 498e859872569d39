r"""Find the bug: an expert with a queue."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]


def first_choices_first(indices: Tensor, n_experts: int, capacity: int) -> Tensor:
    r"""The function as it was found; the text of the exercise shows it."""
    taken = [0] * n_experts
    served = torch.zeros_like(indices, dtype=torch.bool)
    for k in range(indices.shape[1]):
        for n in range(indices.shape[0]):
            expert = int(indices[n, k])
            taken[expert] += 1
            served[n, k] = taken[expert] <= capacity
    return served


def capacity_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[0, 1], [2, 0], [0, 2], [0, 1]]), 3, 2), {}
    for top_k in (1, 2, 3):
        n, n_experts = draw.size(6, 12), draw.size(3, 5)
        fair = max(1, n * top_k // n_experts)
        yield (different_choices(draw, n, n_experts, top_k), n_experts, fair), {}
        yield (different_choices(draw, n, n_experts, top_k), n_experts, draw.size(1, fair)), {}


def different_choices(draw: Draw, n: int, n_experts: int, top_k: int) -> Tensor:
    r"""Each token's experts are different ones; the first experts are the more popular."""
    popular = torch.arange(n_experts, 0, -1) * 0.4
    return (draw.normal(n, n_experts) + popular).topk(top_k).indices


def queue_by_queue(indices: Tensor, n_experts: int, capacity: int) -> Tensor:
    r"""For each expert, write down who comes, token by token, and cut the list."""
    served = torch.zeros(indices.shape, dtype=torch.bool)
    for expert in range(n_experts):
        comers = [(n, k) for n, row in enumerate(indices.tolist()) for k, chosen in enumerate(row) if chosen == expert]
        for n, k in comers[:capacity]:
            served[n, k] = True
    return served


def queue_with(
    enough: Callable[[int, int], bool] = lambda taken, capacity: taken <= capacity,
    order: Callable[[list[int]], list[int]] = lambda tokens: tokens,
    counter: Callable[[int, int], Any] = lambda expert, k: expert,
) -> Callable[..., Tensor]:
    r"""A within_capacity in which one thing is done in another way."""

    def function(indices: Tensor, n_experts: int, capacity: int) -> Tensor:
        taken: Counter[Any] = Counter()
        served = torch.zeros_like(indices, dtype=torch.bool)
        for n in order(list(range(len(indices)))):
            for k, expert in enumerate(indices[n].tolist()):
                taken[counter(expert, k)] += 1
                served[n, k] = enough(taken[counter(expert, k)], capacity)
        return served

    return function


def all_or_nothing(indices: Tensor, n_experts: int, capacity: int) -> Tensor:
    served = queue_with()(indices, n_experts, capacity)
    return served.all(1, keepdim=True).expand_as(served).clone()


WITHIN_CAPACITY = Exercise(
    id="layers.moe.within_capacity",
    lesson="06",
    title="Find the bug",
    task="Each expert takes at most `capacity` choices; the rest is dropped. This function says which choices are "
    "served, (N, K), bool:\n\n```python\n"
    "def within_capacity(indices, n_experts, capacity):\n"
    "    taken = [0] * n_experts\n"
    "    served = torch.zeros_like(indices, dtype=torch.bool)\n"
    "    for k in range(indices.shape[1]):\n"
    "        for n in range(indices.shape[0]):\n"
    "            expert = int(indices[n, k])\n"
    "            taken[expert] += 1\n"
    "            served[n, k] = taken[expert] <= capacity\n"
    "    return served\n"
    "```\n\n"
    "No expert ever gets too much, and the training runs. But in a language model it is a bug, and the experiment "
    "above has shown how it comes to light. Say in a sentence what is wrong, then mend it: whether a token is served "
    "must depend on no later token. Of the places that an expert has, earlier tokens get them, and of one token the "
    "earlier choice.",
    difficulty=2,
    minutes=10,
    points=2,
    seed=67,
    hints=(
        "Two tokens, two choices each, one place an expert: the first token chooses 0 and 1, the second 1 and 0. Who "
        "is served, by the code? Now let the second choose 2 and 0: what has changed for the first?",
        "In which order do the loops walk through the table of choices?",
        "You may keep the loops. (Without loops: `cumsum` along the queue counts how many have come so far, for each "
        "expert in a column of its own.)",
    ),
    cases=capacity_cases,
    oracle=queue_by_queue,
    other_style=queue_with(),
    tolerance=Tolerance(0.0, 0.0, "True or False"),
    mistakes=(
        Mistake(
            "first choices first",
            first_choices_first,
            "The bug is still there: all first choices are served before any second choice, so the first choice of a "
            "later token can take the place from the second choice of an earlier one. What a token gives then depends "
            "on the future, and a language model learns to read it from there. Walk token by token.",
        ),
        Mistake(
            "one place too few",
            queue_with(enough=lambda taken, capacity: taken < capacity),
            "Each expert serves one choice less than it may: the choice that fills the last place is served too.",
        ),
        Mistake(
            "one place too many",
            queue_with(enough=lambda taken, capacity: taken <= capacity + 1),
            "Each expert serves one choice more than its capacity.",
        ),
        Mistake(
            "a queue for each choice",
            queue_with(counter=lambda expert, k: (expert, k)),
            "First and second choices stand in queues of their own, so an expert can get K times its capacity. There "
            "is one queue an expert.",
        ),
        Mistake(
            "the last are served",
            queue_with(order=lambda tokens: tokens[::-1]),
            "You start with the last token: now every token depends on the later ones. The first in the queue are "
            "served.",
        ),
        Mistake(
            "all or nothing",
            all_or_nothing,
            "You drop all choices of a token when one of them finds no place. Each choice is served or dropped by "
            "itself; a token may keep one expert and lose the other.",
        ),
        Mistake(
            "capacity ignored",
            lambda indices, n_experts, capacity: torch.ones_like(indices, dtype=torch.bool),
            "Everything is served: the capacity has no effect.",
        ),
    ),
)
