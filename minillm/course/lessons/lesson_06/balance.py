r"""The loss that keeps a router fair."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]


def balance_cases(draw: Draw) -> Iterator[Case]:
    yield routed(torch.tensor([[2.0, 0.0, 1.0], [3.0, 1.0, 0.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]), 1), {}
    for dtype, top_k in ((torch.float32, 1), (torch.float32, 2), (torch.float64, 3)):
        b, t, n_experts = draw.sizes(3, 4, 9)
        logits = draw.normal(b, t, n_experts, dtype=dtype, scale=2.0)
        logits[..., draw.size(0, n_experts - 1)] += 2.0  # a favourite
        yield routed(logits, top_k), {}
        counted = draw.booleans(b, t, share=0.6)
        counted[0, 0], counted[0, 1] = True, False
        yield routed(logits, top_k), {"counted": counted}


def routed(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    return logits.requires_grad_(), logits.topk(top_k).indices


def value_and_gradient(function: Callable[..., Tensor], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
    r"""The loss, and which way it pushes the router."""
    value = function(logits, *args, **kwargs)
    if not isinstance(value, Tensor) or value.numel() != 1:
        return value
    pushes = torch.autograd.grad(value.sum(), logits)[0] if value.requires_grad else torch.zeros_like(logits)
    return {"loss": value.detach(), "gradient": pushes}


def balance_by_counting(router_logits: Tensor, indices: Tensor, counted: Tensor | None = None) -> dict[str, Tensor]:
    r"""Token by token, and the gradient by the rule for softmax: p_j * (f_j - sum of f p) * E / N."""
    n_experts, dtype = router_logits.shape[-1], router_logits.dtype
    flat = router_logits.detach().reshape(-1, n_experts).tolist()
    chosen = indices.reshape(-1, indices.shape[-1]).tolist()
    real = [True] * len(flat) if counted is None else counted.flatten().tolist()
    n = sum(real)
    probabilities = []
    for logits in flat:
        exps = [math.exp(logit - max(logits)) for logit in logits]
        probabilities.append([exp / sum(exps) for exp in exps])
    picks = [expert for experts, count in zip(chosen, real, strict=True) if count for expert in experts]
    shares = [picks.count(expert) / len(picks) for expert in range(n_experts)]
    means = [sum(p[e] for p, count in zip(probabilities, real, strict=True) if count) / n for e in range(n_experts)]
    gradient = []
    for p, count in zip(probabilities, real, strict=True):
        level = sum(f * q for f, q in zip(shares, p, strict=True))
        gradient.append([n_experts / n * q * (f - level) * count for f, q in zip(shares, p, strict=True)])
    loss = n_experts * sum(f * m for f, m in zip(shares, means, strict=True))
    return {"loss": torch.tensor(loss, dtype=dtype),
            "gradient": torch.tensor(gradient, dtype=dtype).view_as(router_logits)}


def one_hot_shares(indices: Tensor, n_experts: int, dtype: torch.dtype) -> Tensor:
    return torch.nn.functional.one_hot(indices.flatten(), n_experts).to(dtype).mean(0)


def balance_by(
    combine: Callable[[Tensor, Tensor, int, int], Tensor] = lambda f, p, n_experts, top_k: n_experts * (f * p).sum(),
    probabilities: Callable[[Tensor, Tensor], Tensor] = lambda logits, indices: logits.softmax(-1),
    count: Callable[[Tensor, Tensor | None], Tensor] = lambda rows, real: rows if real is None else rows[real],
) -> Callable[..., Tensor]:
    r"""A load_balance_loss in which one thing is done in another way."""

    def loss(router_logits: Tensor, indices: Tensor, counted: Tensor | None = None) -> Tensor:
        n_experts, top_k = router_logits.shape[-1], indices.shape[-1]
        logits, chosen = count(router_logits, counted), count(indices, counted)
        logits, chosen = logits.reshape(-1, n_experts), chosen.reshape(-1, top_k)
        shares = one_hot_shares(chosen, n_experts, logits.dtype)
        return combine(shares, probabilities(logits, chosen).mean(0), n_experts, top_k)

    return loss


def of_the_chosen(logits: Tensor, indices: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter(-1, indices, logits.gather(-1, indices).softmax(-1))


def zeroed(rows: Tensor, real: Tensor | None) -> Tensor:
    return rows if real is None else rows * real[..., None]


LOAD_BALANCE_LOSS = Exercise(
    id="layers.moe.load_balance_loss",
    lesson="06",
    title="The balancing loss",
    task="Let $f_e$ be the share of all choices that fell on expert e (the shares add up to 1), and $P_e$ the mean "
    "over the tokens of the probability that the router gave it, by a softmax over *all* E logits. Return\n\n"
    "$$\\mathcal{L} = E \\sum_e f_e P_e$$\n\n"
    "as a scalar. `counted`, if it is given, marks the real tokens; padding counts neither in f nor in P. The gradient "
    "comes through P alone, since counting has none.",
    difficulty=3,
    minutes=15,
    points=4,
    seed=66,
    hints=(
        "Two vectors of E numbers, both with sum 1, and their dot product. How are they made from (..., E) logits and "
        "(..., K) numbers?",
        "`torch.bincount(numbers, minlength=E)` counts how often each of 0..E-1 occurs in a vector of whole numbers. "
        "How many choices are there in all? K for each token.",
        "A bool tensor as an index, `router_logits[counted]`, gives the rows where it is True, as (n, E).",
        "Test it: 8 experts used alike give 1; if all tokens choose one expert, and the router is sure, you get 8.",
    ),
    cases=balance_cases,
    oracle=balance_by_counting,
    probe=value_and_gradient,
    other_style=balance_by(),
    tolerance=Tolerance(2e-5, 1e-6, "means of some dozens of probabilities in another order"),
    mistakes=(
        Mistake(
            "no factor E",
            balance_by(lambda f, p, n_experts, top_k: (f * p).sum()),
            "The factor E is missing. With it a fair router has loss 1, however many experts there are; without it "
            "1 / E, and the coefficient would have to change with E.",
        ),
        Mistake(
            "balanced at K",
            balance_by(lambda f, p, n_experts, top_k: top_k * n_experts * (f * p).sum()),
            "Your shares add up to K: you divide the counts by the number of tokens. A fair router then has loss K. "
            "(Some libraries do it so; mind it when you take over their coefficient.) Divide by the number of choices.",
        ),
        Mistake(
            "counts for shares",
            lambda router_logits, indices, counted=None: balance_by()(router_logits, indices, counted)
            * (indices.numel() if counted is None else int(counted.sum()) * indices.shape[-1]),
            "f holds the counts themselves, so the loss grows with the batch. Divide by the number of choices.",
        ),
        Mistake(
            "shares only",
            balance_by(lambda f, p, n_experts, top_k: n_experts * (f * f).sum() + 0 * p.sum()),
            "You multiply the shares by themselves. That measures the balance, but a count has no gradient: nothing "
            "would reach the router. One of the two factors must be the probabilities.",
        ),
        Mistake(
            "probabilities only",
            balance_by(lambda f, p, n_experts, top_k: n_experts * (p * p).sum()),
            "You use the probabilities twice and the choices never. The router can look fair on average and still "
            "send most tokens to one expert, by a narrow margin each time: f has to be counted.",
        ),
        Mistake(
            "no gradient",
            balance_by(probabilities=lambda logits, indices: logits.detach().softmax(-1)),
            "The value is right, but no gradient reaches the router (`.detach()`, `.item()`, `torch.no_grad()`): "
            "the loss would be shown and change nothing.",
        ),
        Mistake(
            "softmax over the chosen",
            balance_by(probabilities=of_the_chosen),
            "P comes from the weights of the chosen experts. It is the softmax over *all* logits: an expert that is "
            "never chosen has a probability too, and that is the way back for it.",
        ),
        Mistake(
            "padding counted",
            balance_by(count=lambda rows, real: rows),
            "`counted` has no effect: padding counts like a token. All padding is alike and goes to the same experts, "
            "so the router would be punished for it.",
        ),
        Mistake(
            "padding set to zero",
            balance_by(count=zeroed),
            "You multiply by `counted` and leave the rows in: a zeroed logit still has probability 1 / E, and a zeroed "
            "choice counts for expert 0. Take the rows out.",
        ),
        Mistake(
            "softmax over the tokens",
            balance_by(probabilities=lambda logits, indices: logits.softmax(0)),
            "Your softmax runs over the tokens. The router shares out each token among the experts: the last "
            "dimension.",
        ),
    ),
)
