r"""Routing: which experts a token gets, and how much of each."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]


def route_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2), {}
    for dtype in (torch.float32, torch.float64):
        n, n_experts = draw.sizes(2, 4, 9)
        yield (draw.normal(n, n_experts, dtype=dtype, scale=2.0), draw.size(2, 3)), {}
    b, t, n_experts = draw.sizes(3, 3, 8)
    yield (draw.normal(b, t, n_experts), 2), {}
    yield (draw.normal(b, t, n_experts), 1), {}
    yield (draw.normal(n_experts, b), b), {}


def route_token_by_token(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    weights, indices = [], []
    for logits in router_logits.reshape(-1, router_logits.shape[-1]).tolist():
        best = sorted(range(len(logits)), key=lambda e: logits[e], reverse=True)[:top_k]
        total = sum(math.exp(logits[e]) for e in best)
        weights.append([math.exp(logits[e]) / total for e in best])
        indices.append(best)
    shape = (*router_logits.shape[:-1], top_k)
    return torch.tensor(weights, dtype=router_logits.dtype).view(shape), torch.tensor(indices).view(shape)


def cut_and_divided(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    r"""Mixtral's own order: softmax over all experts, cut, divided by the sum."""
    weights, indices = router_logits.softmax(-1).topk(top_k)
    return weights / weights.sum(-1, keepdim=True), indices


def all_experts(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    return router_logits.softmax(-1).sort(-1, descending=True)


def dense_weights(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    weights, indices = cut_and_divided(router_logits, top_k)
    return torch.zeros_like(router_logits).scatter(-1, indices, weights), indices


def over_the_tokens(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    chosen, indices = router_logits.topk(top_k)
    return chosen.softmax(0), indices


def raw_logits(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    chosen, indices = router_logits.topk(top_k)
    return chosen, indices


def divided_logits(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    chosen, indices = router_logits.topk(top_k)
    return chosen / chosen.sum(-1, keepdim=True), indices


def equal_shares(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    chosen, indices = router_logits.topk(top_k)
    return torch.full_like(chosen, 1 / top_k), indices


def smallest(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    chosen, indices = router_logits.topk(top_k, largest=False)
    return chosen.softmax(-1), indices


def one_expert(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    chosen, indices = router_logits.topk(1)
    return chosen.softmax(-1), indices


def experts_choose(router_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    chosen, indices = router_logits.topk(min(top_k, router_logits.shape[0]), dim=0)
    return chosen.softmax(0), indices


TOP_K_ROUTE = Exercise(
    id="layers.moe.top_k_route",
    lesson="06",
    title="The router",
    task="For each token the router has a logit for each of E experts. Choose the `top_k` largest. Return the weights "
    "of the chosen, a softmax over *their* logits, and their numbers: two tensors (..., top_k), the largest first.",
    difficulty=2,
    minutes=8,
    points=3,
    seed=65,
    hints=(
        "One call of `Tensor.topk` gives both the largest values and where they stand. Which dimension holds the "
        "experts?",
        "The weights of one token are positive and add up to 1, whatever the logits of the experts that it does not "
        "use.",
        "Logits 1, 3, 2, 0 and top_k 2: experts 1 and 2, with weights softmax(3, 2) = 0.731 and 0.269.",
    ),
    cases=route_cases,
    oracle=route_token_by_token,
    other_style=cut_and_divided,
    tolerance=Tolerance(1e-5, 1e-6, "one softmax, possibly cut from a longer one"),
    mistakes=(
        Mistake(
            "top_k ignored",
            all_experts,
            "You ignore top_k: every token gets all experts. The sum is a mixture all right, but a dense one, and it "
            "costs E experts a token. The point of routing is to run only the chosen.",
        ),
        Mistake(
            "softmax over all, cut",
            lambda router_logits, top_k: tuple(router_logits.softmax(-1).topk(top_k)),
            "You take the softmax over all experts and cut afterwards, so the weights of the chosen add up to less "
            "than 1. Choose first, then softmax over the chosen logits (or divide by their sum). Uncut weights are "
            "right for Switch, with its single expert; there weight 1 would leave the router without a gradient.",
        ),
        Mistake(
            "logits as weights",
            raw_logits,
            "The weights are the bare logits. They may be negative and do not add up to 1: softmax is missing.",
        ),
        Mistake(
            "divided without exp",
            divided_logits,
            "You divide the logits by their sum. Logits can be negative, and the sum 0: take exp first, that is, "
            "softmax.",
        ),
        Mistake(
            "equal shares",
            equal_shares,
            "Each of the chosen gets the same weight. Then nothing tells the router which of its choices was better: "
            "its only gradient comes through the weights.",
        ),
        Mistake(
            "the smallest logits",
            smallest,
            "You choose the experts with the smallest logits. topk takes the largest unless you ask for others.",
        ),
        Mistake(
            "one expert only",
            one_expert,
            "You choose one expert, whatever top_k is. The last dimension of both results has top_k entries.",
        ),
        Mistake(
            "softmax over the tokens",
            over_the_tokens,
            "Your softmax runs over the tokens. Each *token* shares itself out among its experts: the last dimension "
            "must add up to 1.",
        ),
        Mistake(
            "experts choose tokens",
            experts_choose,
            "topk runs over the first dimension: each expert chooses its tokens. That is a design of its own (expert "
            "choice), but in a language model a token's fate would depend on later tokens. Choose along the last "
            "dimension.",
        ),
        Mistake(
            "dense weights",
            dense_weights,
            "The weights have E entries, with zeros for the unchosen. Return only the chosen ones, (..., top_k), in "
            "the order of the numbers that you return.",
        ),
        Mistake(
            "the two exchanged",
            lambda router_logits, top_k: tuple(reversed(cut_and_divided(router_logits, top_k))),
            "Weights and numbers are exchanged: first the weights (float), then the experts' numbers (int64).",
        ),
    ),
)
