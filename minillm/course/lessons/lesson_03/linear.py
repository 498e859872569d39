r"""Linear attention."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import elu

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

RUNNING_SUMS = Tolerance(1e-4, 1e-5, "running sums add in another order than a table of weights, in float32")


def linear_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, h, t, d, e = draw.sizes(5, 2, 7)
    yield (draw.normal(3, 2), draw.normal(3, 2), draw.normal(3, 2)), {}
    yield (draw.normal(t, d, scale=2.0), draw.normal(t, d, scale=2.0), draw.normal(t, e)), {}
    yield tuple(draw.normal(b, h, t + 8, n, dtype=torch.float64, scale=1.5) for n in (d, d, e)), {}
    yield tuple(draw.normal(h, t, n) for n in (16, 16, e)), {}
    hidden = draw.normal(b, t, d)
    hidden[:, 0] = float("-inf")  # the first key is seen by nobody, and so the first query sees nothing
    yield (draw.normal(b, t, d), hidden, draw.normal(b, t, e)), {}


def linear_by_table(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    r"""Each weight by itself, in float64: what the running sums must add up to."""
    asked, found = elu(q.double()) + 1, elu(k.double()) + 1
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    for i in range(q.shape[-2]):
        weights = [(asked[..., i, :] * found[..., j, :]).sum(-1, keepdim=True) for j in range(i + 1)]
        total = sum(weights)
        mixed = sum(weight * v[..., j, :] for j, weight in enumerate(weights))
        out[..., i, :] = torch.where(total > 0, mixed / total.clamp(min=1e-300), 0.0)
    return out.to(q.dtype)


def linear_token_by_token(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    memory, normalizer, out = 0.0, 0.0, []
    for i in range(q.shape[-2]):
        asked, found = elu(q[..., i, :]) + 1, elu(k[..., i, :]) + 1
        memory = memory + found[..., :, None] * v[..., i, None, :]
        normalizer = normalizer + found
        total = (asked * normalizer).sum(-1, keepdim=True)
        out.append((asked[..., None, :] @ memory)[..., 0, :] / total.clamp(min=1e-30))
    return torch.stack(out, dim=-2)


def elu_plus_one(x: Tensor) -> Tensor:
    return elu(x) + 1


def running(x: Tensor, dim: int) -> Tensor:
    return x.cumsum(dim)


def before(x: Tensor, dim: int) -> Tensor:
    return x.cumsum(dim) - x


def everything(x: Tensor, dim: int) -> Tensor:
    return x.sum(dim, keepdim=True).expand_as(x)


def by_weights(asked: Tensor, sums: Tensor) -> Tensor:
    return (asked * sums).sum(-1, keepdim=True)


def linear_by(
    on_q: Callable[[Tensor], Tensor] = elu_plus_one,
    on_k: Callable[[Tensor], Tensor] = elu_plus_one,
    above: Callable[[Tensor, int], Tensor] = running,
    below: Callable[[Tensor, int], Tensor] = running,
    divisor: Callable[[Tensor, Tensor], Tensor] = by_weights,
    floor: float | None = 1e-30,
) -> Callable[..., Tensor]:
    r"""Running sums with one step done differently: the features, the sums above and below the line, the division."""

    def wrong(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        asked, found = on_q(q), on_k(k)
        memory = above(found[..., :, None] * v[..., None, :], -3)
        total = divisor(asked, below(found, -2))
        read = torch.einsum("...td,...tde->...te", asked, memory)
        return read / (total if floor is None else total.clamp(min=floor))

    return wrong


def softmax_in_place_of_features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = torch.ones(q.shape[-2], k.shape[-2]).tril().bool()
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0) @ v


LINEAR_ATTENTION = Exercise(
    id="layers.linear_attention.linear_attention",
    lesson="03",
    title="Linear attention by running sums",
    task="Causal attention in which the weight of key j for query i is features(q_i) · features(k_j), divided by the "
    "sum of these weights over all j ≤ i. The features are elu(x) + 1, as `linear_attention.positive_features`. No "
    "table of T × T weights: keep running sums over the past (`cumsum`). A key of -inf throughout has features of 0; a "
    "query whose weights are all 0 gets zeros, not NaN.",
    difficulty=2,
    minutes=18,
    points=4,
    seed=34,
    hints=(
        "Take one query, and pull it out of the sum over j: what is left, the sum of features(k_j) times v_j, does not "
        "depend on the query. What shape has it?",
        "One outer product a token, (Dh, 1) times (1, Dv), is (..., T, Dh, Dv) in all. A running sum along "
        "T gives every query its own past, the present token included.",
        "The denominator works the same way, with a running sum of features(k) alone, (..., T, Dh), and a dot product "
        "with features(q).",
        "A smallest allowed denominator (`clamp`, with torch.finfo(...).tiny) makes 0/0 a 0 and changes nothing else.",
    ),
    cases=linear_cases,
    oracle=linear_by_table,
    other_style=linear_token_by_token,
    tolerance=RUNNING_SUMS,
    mistakes=(
        Mistake(
            "softmax attention",
            softmax_in_place_of_features,
            "This is softmax attention. exp(q · k) cannot be taken apart into a part of q and a part of k, so it needs "
            "the whole table of T × T scores, and each new token needs every old key. Linear attention puts a product "
            "of features in its place.",
        ),
        Mistake(
            "not causal",
            linear_by(above=everything, below=everything),
            "Every query reads from all keys, the future included: you sum over the whole sequence. A *running* sum "
            "gives each query its own past.",
        ),
        Mistake(
            "without itself",
            linear_by(above=before, below=before),
            "Your sums stop before the present token: query i must read from key i as well.",
        ),
        Mistake(
            "not divided",
            linear_by(divisor=lambda asked, sums: torch.ones_like(asked[..., :1])),
            "The weights are not divided by their sum, so the output grows with every token. It must be a weighted "
            "*average* of values.",
        ),
        Mistake(
            "divided by the sum over everything",
            linear_by(below=everything),
            "You divide by the sum over all keys, the future included: early tokens come out too small, and they "
            "change when the text goes on. The denominator is a running sum too.",
        ),
        Mistake(
            "divided by the number of keys",
            linear_by(divisor=lambda asked, sums: torch.arange(1, asked.shape[-2] + 1, dtype=asked.dtype)[:, None]),
            "You divide by how many keys there are. Weights are not all 1: divide by their sum, features(q) · the "
            "running sum of features(k).",
        ),
        Mistake(
            "no features",
            linear_by(on_q=lambda q: q, on_k=lambda k: k, floor=None),
            "You multiply q and k as they are. Such weights may be negative, and their sum 0 or below: the output "
            "blows up. The features make every weight positive.",
        ),
        Mistake(
            "features of the queries only",
            linear_by(on_k=lambda k: k, floor=None),
            "Only the queries go through the features; the keys must too, or weights become negative.",
        ),
        Mistake(
            "features of the keys only",
            linear_by(on_q=lambda q: q, floor=None),
            "Only the keys go through the features; the queries must too, or weights become negative.",
        ),
        Mistake(
            "relu features",
            linear_by(on_q=torch.relu, on_k=torch.relu),
            "Your features are relu(x), which is 0 for half of all numbers and gives them no gradient. The course's "
            "are elu(x) + 1, positive everywhere.",
        ),
        Mistake(
            "NaN where nothing is seen",
            linear_by(floor=None),
            "Right wherever something is seen; but a query whose keys are all hidden gets 0/0, which is NaN. The rule "
            "is zeros for it.",
        ),
    ),
)
