r"""Attention weights, and what both dot-product exercises share: inputs, an oracle row by row, wrong masks."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

SHORT_SUMS = Tolerance(
    2e-5, 2e-6, "sums of a few products in another order, then exp, which doubles their rounding error"
)
NO_SCALE = (
    "The scores are not scaled. A dot product of Dh terms has a variance of about Dh; divide it by sqrt(Dh), or "
    "softmax gives nearly all weight to one key as soon as heads are wide."
)
WRONG_AXIS = (
    "Your softmax runs over the queries. Each *query* hands out one unit of attention, so a row, over the keys, must "
    "sum to 1: the last dimension."
)
INVERTED = (
    "The polarity is turned round: True means *may attend*. `masked_fill` fills where its argument is True, so it "
    "wants the opposite of the mask, `~mask`."
)
NO_EFFECT = (
    "Your mask changes nothing: blocked keys keep their weight, and the future leaks. Either the mask is not used (or "
    "not handed on), or you add minus a billionth (-1e-9) where minus infinity is meant. Fill the scores with -inf."
)
AFTERWARDS = (
    "You zero the weights after the softmax. By then the blocked keys have taken their share, and the rows no longer "
    "sum to 1. Block the *scores*, with -inf, before the softmax."
)
EMPTY_ROW = (
    "A query that may see nothing at all (a padding slot, say) gets NaN: a row of -inf is 0/0 in the softmax. The rule "
    "here is zeros for it: put 0 into the blocked places again after the softmax."
)


def plain_scores(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    return (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)


def attention_inputs(draw: Draw) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
    r"""Queries, keys and keyword arguments; the last two dimensions are never equal, so that a swap shows."""
    b, h, n, m, d = draw.sizes(5, 2, 6)
    few = draw.booleans(n, m, share=0.6)
    few[:, 0] = True
    blind = draw.booleans(b, 1, n, m, share=0.6)
    blind[..., -1, :] = False  # a query that may attend nowhere
    yield draw.normal(2, 3), draw.normal(4, 3), {}
    yield draw.normal(n, d, scale=2.0), draw.normal(m, d, scale=2.0), {}
    yield draw.normal(n, d), draw.normal(n, d), {"mask": torch.ones(n, n).tril().bool()}
    yield draw.normal(b, h, n, d), draw.normal(b, h, m, d), {"mask": few}
    yield draw.normal(b, h, n, d, dtype=torch.float64), draw.normal(b, h, m, d, dtype=torch.float64), {"mask": blind}
    yield draw.normal(h, n, d), draw.normal(h, m, d), {"attn_bias": 2 * draw.normal(n, m), "mask": few}
    yield draw.normal(h, n, d), draw.normal(h, m, d), {"attn_bias": 2 * draw.normal(h, n, m)}
    yield draw.normal(h, n, d), draw.normal(h, m, d), {"scale": draw.size(2, 9) / 10}
    yield draw.normal(b, h, n, 36), draw.normal(b, h, m, 36), {}


def weights_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for q, k, options in attention_inputs(draw):
        yield (q, k), options


def weights_row_by_row(
    q: Tensor, k: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    shape = (*q.shape[:-1], k.shape[-2])
    allowed = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    bias = torch.zeros(shape) if attn_bias is None else attn_bias.expand(shape)
    out = torch.zeros(shape, dtype=torch.float64)
    factor = 1 / q.shape[-1] ** 0.5 if scale is None else scale
    for row in product(*map(range, shape[:-1])):
        seen = allowed[row].nonzero()[:, 0]
        keys = k[row[:-1]][seen].double()
        scores = (keys * q[row].double()).sum(-1) * factor + bias[row][seen].double()
        out[(*row, seen)] = scores.softmax(0) if len(seen) else scores
    return out.to(q.dtype)


def weights_other_style(
    q: Tensor, k: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("...id,...jd->...ij", q * scale, k) + (0 if attn_bias is None else attn_bias)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    return torch.softmax(scores, dim=-1).nan_to_num(0.0)


def weights_by(
    rule: Callable[[Tensor, Tensor], Tensor] | None = None,
    factor: Callable[[Tensor, Tensor], float] | None = None,
    dim: int = -1,
) -> Callable[..., Tensor]:
    r"""Attention weights with another way to mask (scores, mask) or to scale (q, k)."""

    def wrong(
        q: Tensor, k: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        if factor is not None and scale is None:
            scale = factor(q, k)
        scores = plain_scores(q, k, scale) + (0 if attn_bias is None else attn_bias)
        if mask is None:
            return scores.softmax(dim)
        if rule is not None:
            return rule(scores, mask)
        return scores.masked_fill(~mask, float("-inf")).softmax(dim).masked_fill(~mask, 0.0)

    return wrong


def weights_bias_scaled(
    q: Tensor, k: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return weights_other_style(q, k, mask, None if attn_bias is None else attn_bias * factor, scale)


def weights_not_normalized(
    q: Tensor, k: Tensor, mask: Tensor | None = None, attn_bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    scores = plain_scores(q, k, scale) + (0 if attn_bias is None else attn_bias)
    return scores if mask is None else scores.masked_fill(~mask, 0.0)


def inverted_weights(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, float("-inf")).softmax(-1).masked_fill(mask, 0.0)


# How a mask can be applied wrongly, to the scores or after them.
WRONG_MASKS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "polarity inverted": (inverted_weights, INVERTED),
    "mask without effect": (lambda scores, mask: (scores + ~mask * -1e-9).softmax(-1), NO_EFFECT),
    "mask after softmax": (lambda scores, mask: scores.softmax(-1) * mask, AFTERWARDS),
    "NaN where nothing is seen": (
        lambda scores, mask: scores.masked_fill(~mask, float("-inf")).softmax(-1),
        EMPTY_ROW,
    ),
    "finite mask": (
        lambda scores, mask: scores.masked_fill(~mask, -1e9).softmax(-1),
        "A large negative number is not minus infinity: a query that may see nothing then gives every blocked key the "
        "same weight, and reads the average of what it must not see. Fill with -inf, and make such a row zeros.",
    ),
    "scores multiplied by the mask": (
        lambda scores, mask: (scores * mask).softmax(-1),
        "You multiply the scores by the mask. A score of 0 is not *blocked*: exp(0) is 1, so such a key gets a weight "
        "like any other. Only -inf gives exactly 0.",
    ),
}

ATTENTION_WEIGHTS = Exercise(
    id="layers.sdpa.attention_weights",
    lesson="02",
    title="How much each query takes from each key",
    task="Four steps: all dot products of queries with keys, times `scale` (1 / sqrt(Dh) if it is None); plus "
    "`attn_bias` if there is one; -inf where the mask says no; softmax over the keys. A query that may attend "
    "nowhere gets zeros.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=23,
    hints=(
        "All dot products at once are one matrix product. Which two dimensions of `k` must change places, so that "
        "(Tq, Dh) meets (Dh, Tk)? There may be dimensions in front: count from the end.",
        "The scale belongs to the dot products alone; `attn_bias` is added after it, as it is.",
        "`masked_fill` puts a number where a bool tensor is True. The mask is True where one *may* attend, so turn it "
        "round with `~`.",
        "In a row of -inf only, softmax is 0/0 = NaN. After the softmax, put 0 where the mask says no; in all other "
        "rows there is a 0 already.",
    ),
    cases=weights_cases,
    oracle=weights_row_by_row,
    other_style=weights_other_style,
    tolerance=SHORT_SUMS,
    mistakes=(
        Mistake("no scale", weights_by(factor=lambda q, k: 1.0), NO_SCALE),
        Mistake(
            "divided by head_dim",
            weights_by(factor=lambda q, k: 1 / q.shape[-1]),
            "You divide by Dh, not by its square root. The *variance* of the dot product is Dh, so its typical size is "
            "sqrt(Dh); dividing by Dh makes all weights nearly equal.",
        ),
        Mistake(
            "scaled by the number of keys",
            weights_by(factor=lambda q, k: k.shape[-2] ** -0.5),
            "You scale by the number of keys. The sum in a dot product has Dh terms: the *last* dimension of `q` "
            "counts.",
        ),
        Mistake(
            "scale argument ignored",
            lambda q, k, mask=None, attn_bias=None, scale=None: weights_other_style(q, k, mask, attn_bias),
            "With `scale` given it must be used in place of 1 / sqrt(Dh); you always take the latter.",
        ),
        Mistake("softmax over queries", weights_by(dim=-2), WRONG_AXIS),
        Mistake(
            "softmax over dimension 1",
            weights_by(dim=1),
            "Dimension 1 is right only while nothing stands in front of Tq and Tk. With a batch and heads it is "
            "another one: count from the end, -1.",
        ),
        Mistake(
            "no softmax",
            weights_not_normalized,
            "These are scores, not weights: they may be negative and do not sum to 1. Softmax over the keys is "
            "missing.",
        ),
        Mistake(
            "bias ignored",
            lambda q, k, mask=None, attn_bias=None, scale=None: weights_other_style(q, k, mask, None, scale),
            "`attn_bias` is not used. It is added to the scaled scores, before the softmax; later it will carry "
            "distances (lesson 04).",
        ),
        Mistake(
            "bias scaled too",
            weights_bias_scaled,
            "You scale the bias as well. Only the dot products are scaled; `attn_bias` is added afterwards, as it is.",
        ),
        *(Mistake(name, weights_by(rule), message) for name, (rule, message) in WRONG_MASKS.items()),
    ),
)
