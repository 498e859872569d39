r"""Shaw's attention: keys and values that also say how far they stand from the query."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

SOFTMAX_SUMS = Tolerance(1e-4, 1e-5, "float32 sums and a softmax, taken in another order")


def shaw_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, h, t, dh = draw.sizes(4, 2, 5)
    start = draw.size(4, 20)

    def drawn(batch: int, heads: int, n_queries: int, n_keys: int, width: int, furthest: int, dtype=torch.float32):
        parts = [draw.normal(batch, heads, n, width, dtype=dtype, scale=1.5) for n in (n_queries, n_keys, n_keys)]
        tables = [draw.normal(2 * furthest + 1, width, dtype=dtype, scale=1.5) for _ in range(2)]
        return parts, tables

    for sizes, q_positions, kv_positions in (
        ((1, 1, 2, 2, 2, 1), torch.arange(2), torch.arange(2)),
        ((b, h, t + 2, t + 2, dh, 2), torch.arange(t + 2), torch.arange(t + 2)),
        ((b, h, 2, t + 3, dh, 1), start + torch.arange(2), start + torch.arange(-t - 1, 2)),  # behind a cache
        ((b, 1, t, t, dh, 3), *(2 * [torch.arange(t) + draw.integers(0, 9, b, 1)])),
    ):
        (q, k, v), tables = drawn(*sizes)
        yield (q, k, v, q_positions, kv_positions, *tables), {}
        mask = kv_positions[..., None, :] <= q_positions[..., :, None]
        yield (q, k, v, q_positions, kv_positions, *tables, mask if mask.dim() == 2 else mask[:, None]), {}
    (q, k, v), tables = drawn(1, h, t, t, dh, 2, torch.float64)
    yield (q, k, v, torch.arange(t), torch.arange(t), *tables), {}


def shaw_by(
    row: Callable[[Tensor, int], Tensor] = lambda ahead, furthest: ahead.clamp(-furthest, furthest) + furthest,
    score: Callable[..., Tensor] = lambda q, k, a: (k + a) @ q / math.sqrt(len(q)),
    value: Callable[[Tensor, Tensor], Tensor] = lambda v, b: v + b,
    masked: bool = True,
) -> Callable[..., Tensor]:
    r"""Shaw's attention query by query, with one of its steps done otherwise."""

    def function(q, k, v, q_positions, kv_positions, key_vectors, value_vectors, mask=None):
        out, furthest = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64), len(key_vectors) // 2
        seen = torch.ones(()).bool() if mask is None or not masked else mask
        seen = seen.expand(*q.shape[:-1], k.shape[-2])
        asks, stands = (positions.expand(q.shape[0], -1) for positions in (q_positions, kv_positions))
        q, k, v, a, b = (part.double() for part in (q, k, v, key_vectors, value_vectors))
        for n, h, i in product(*map(range, q.shape[:-1])):
            keys = seen[n, h, i]
            rows = row(stands[n, keys] - asks[n, i], furthest)
            weights = score(q[n, h, i], k[n, h, keys], a[rows]).softmax(0)
            out[n, h, i] = weights @ value(v[n, h, keys], b[rows])
        return out.to(value_vectors.dtype)

    return function


def shaw_other_style(q, k, v, q_positions, kv_positions, key_vectors, value_vectors, mask=None):
    furthest = len(key_vectors) // 2
    ahead = kv_positions.unsqueeze(-2) - q_positions.unsqueeze(-1)
    rows = torch.clamp(ahead, -furthest, furthest) + furthest
    of_keys, of_values = (table[rows.expand(len(q), -1, -1)] for table in (key_vectors, value_vectors))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) + torch.einsum("bhid,bijd->bhij", q, of_keys)
    scores = scores / q.shape[-1] ** 0.5
    weights = torch.softmax(scores if mask is None else scores.masked_fill(~mask, float("-inf")), dim=-1)
    return weights @ v + torch.einsum("bhij,bijd->bhid", weights, of_values)


SHAW_ATTENTION = Exercise(
    id="layers.shaw.shaw_attention",
    lesson="04",
    title="Keys and values that know their distance",
    task="For a query at position i and a key at position j take row `clip(j - i, -n, n) + n` of both tables, which "
    "have 2n + 1 rows: a of `key_vectors`, b of `value_vectors`. The score is q . (k + a) / sqrt(Dh); the softmax is "
    "as always, over the keys that the mask allows; what is averaged is v + b. (A table of vectors for every pair is "
    "good enough here. The package makes none: it lets each query meet the 2n + 1 vectors once.)",
    difficulty=3,
    minutes=20,
    points=3,
    seed=48,
    hints=(
        "Your `broadcast_pairwise` gives query minus key: mind the sign. `.clamp(-n, n)` does the clipping.",
        "`key_vectors[rows]` is (Tq, Tk, Dh), or (B, Tq, Tk, Dh) for positions of shape (B, T).",
        "q . (k + a) is q . k, which you know, plus q . a: `torch.einsum('bhid,ijd->bhij', ...)` for one row of "
        "positions.",
        "The average of v + b is the average of v plus the average of b, with the same weights.",
    ),
    cases=shaw_cases,
    oracle=shaw_by(),
    other_style=shaw_other_style,
    tolerance=SOFTMAX_SUMS,
    mistakes=(
        Mistake(
            "distance turned round",
            shaw_by(row=lambda ahead, furthest: (-ahead).clamp(-furthest, furthest) + furthest),
            "Past and future have changed places: the row is that of the key's position minus the query's, so that "
            "row 0 is for keys far *before* the query.",
        ),
        Mistake(
            "not clipped",
            shaw_by(row=lambda ahead, furthest: (ahead + furthest) % (2 * furthest + 1)),
            "You do not clip the distance, and an index below 0 counts from the *end* of the table: a key far behind "
            "gets the vector of one ahead, without any error. Clamp to -n..n before you add n.",
        ),
        Mistake(
            "values without distance",
            shaw_by(value=lambda v, b: v),
            "The keys know their distance, but `value_vectors` is not used. What is averaged is v + b: the answer also "
            "says from how far it comes.",
        ),
        Mistake(
            "keys without distance",
            shaw_by(score=lambda q, k, a: k @ q / math.sqrt(len(q))),
            "The scores do not see `key_vectors`: the query meets k, where it should meet k + a.",
        ),
        Mistake(
            "distance not scaled",
            shaw_by(score=lambda q, k, a: k @ q / math.sqrt(len(q)) + a @ q),
            "You divide q . k by sqrt(Dh), but not q . a. Both are dot products of Dh terms: scale their sum.",
        ),
        Mistake(
            "not scaled at all",
            shaw_by(score=lambda q, k, a: (k + a) @ q),
            "The scores are not divided by sqrt(Dh), as in every attention of this course.",
        ),
        Mistake(
            "key's vector alone",
            shaw_by(score=lambda q, k, a: (k @ q + (k * a).sum(-1)) / math.sqrt(len(q))),
            "You multiply a with the key. It is the *query* that meets it: q . (k + a) = q . k + q . a.",
        ),
        Mistake(
            "by index",
            lambda q, k, v, q_positions, kv_positions, *rest: shaw_by()(
                q, k, v, torch.arange(q.shape[-2]), torch.arange(k.shape[-2]), *rest
            ),
            "You count queries and keys from 0 in this call. Behind a cache the first query stands at position 9, say: "
            "take the positions that are given.",
        ),
        Mistake(
            "mask forgotten",
            shaw_by(masked=False),
            "The mask is not used: your queries see the future. True in `mask` means may attend; put -inf on the "
            "others before the softmax.",
        ),
    ),
)
