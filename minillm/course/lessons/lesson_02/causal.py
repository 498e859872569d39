r"""The causal mask, and what both mask exercises share: the positions that are tried, and a table by loops."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw

INVERTED = (
    "The polarity is turned round. In this course True means *may attend*, and your True means *blocked*: every query "
    "now sees exactly what it must not see."
)
BY_INDEX = (
    "You compare the places in the table, not the positions. That is right only while query 0 is token 0 and nothing "
    "is padded: in a cached step the only query may be token 7. Use the numbers in `q_positions` and `kv_positions`."
)
NO_BATCH = (
    "It works for positions of shape (T,), but not with a batch in front, (B, T). Count dimensions from the end: "
    "`[..., :, None]`."
)


def padded_positions(draw: Draw, batch_size: int, seq_len: int) -> Tensor:
    r"""Positions of a batch padded on the left by different amounts, as `padding_mask.cumsum(1) - 1` gives them."""
    rows = torch.arange(seq_len) - torch.randperm(seq_len, generator=draw.generator)[:batch_size, None]
    return rows.clamp(min=-1)


def position_pairs(draw: Draw) -> Iterator[tuple[Tensor, Tensor]]:
    n, new, batch_size = draw.sizes(3, 3, 6)
    first = draw.size(2, 5)
    yield torch.arange(3), torch.arange(3)
    yield torch.arange(n), torch.arange(n)
    yield torch.tensor([first]), torch.arange(first + 1)  # one cached step
    yield torch.arange(first, first + new), torch.arange(first + new)  # several new tokens after cached ones
    yield torch.arange(4) - 1, torch.arange(4) - 1  # one padding slot on the left
    right = torch.arange(n + 2)
    right[-2:] = -1
    yield right[2:], right
    left = padded_positions(draw, batch_size, batch_size + 1)
    yield left, left
    yield torch.arange(1, 4), left


def causal_mask_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for pair in position_pairs(draw):
        yield pair, {}


def table_of_pairs(q_positions: Tensor, kv_positions: Tensor, rule: Callable[[int, int], bool]) -> Tensor:
    lead = torch.broadcast_shapes(q_positions.shape[:-1], kv_positions.shape[:-1])
    q, k = q_positions.expand(*lead, -1), kv_positions.expand(*lead, -1)
    mask = torch.zeros(*lead, q.shape[-1], k.shape[-1], dtype=torch.bool)
    for *row, i, j in product(*map(range, mask.shape)):
        a, b = int(q[(*row, i)]), int(k[(*row, j)])
        mask[(*row, i, j)] = a >= 0 and b >= 0 and rule(a, b)
    return mask


def causal_by_loops(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    return table_of_pairs(q_positions, kv_positions, lambda i, j: j <= i)


def lower_triangle(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    return torch.ones(q_positions.shape[-1], kv_positions.shape[-1]).tril()


def causal_from_the_end(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    q_len, kv_len = q_positions.shape[-1], kv_positions.shape[-1]
    return torch.ones(q_len, kv_len).tril(kv_len - q_len).bool()


def causal_padding_seen(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    return q_positions[..., :, None] >= kv_positions[..., None, :]


def causal_with_infinities(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    return torch.zeros(()).masked_fill(~causal_by_loops(q_positions, kv_positions), float("-inf"))


def causal_other_style(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    q, k = q_positions.unsqueeze(-1), kv_positions.unsqueeze(-2)
    return torch.logical_and(torch.le(k, q), torch.ne(k, -1))


CAUSAL_MASK = Exercise(
    id="layers.masks.causal_mask",
    lesson="02",
    title="The causal mask, from positions",
    task="Say for every query and every key whether the query may attend to it: yes if the key stands at the query's "
    "position or before it. A position of -1 marks padding: nobody sees such a key, and such a query sees nothing. "
    "No loops; your `broadcast_pairwise` of lesson 00 makes all differences at once.",
    difficulty=1,
    minutes=10,
    points=3,
    seed=21,
    hints=(
        "Write the rule for one pair first: which comparison of the two positions is True when the key is not in the "
        "future?",
        "`broadcast_pairwise(q_positions, kv_positions)` is the table of distances, query minus key. What sign has a "
        "distance to a key in the past, and to the query itself?",
        "Padding keys have position -1, so they look as if they stood before everything. They need a condition of "
        "their own, as a row that goes under all queries; `&` joins two bool tensors.",
    ),
    cases=causal_mask_cases,
    oracle=causal_by_loops,
    other_style=causal_other_style,
    mistakes=(
        Mistake(
            "polarity inverted", lambda q_positions, kv_positions: ~causal_by_loops(q_positions, kv_positions), INVERTED
        ),
        Mistake(
            "sees the future",
            lambda q_positions, kv_positions: table_of_pairs(q_positions, kv_positions, lambda i, j: j >= i),
            "Your mask looks the wrong way: each query sees itself and what comes *after* it. The key's position must "
            "not be larger than the query's.",
        ),
        Mistake(
            "hidden from itself",
            lambda q_positions, kv_positions: table_of_pairs(q_positions, kv_positions, lambda i, j: j < i),
            "A query must see itself too: the comparison is *at most*, and yours is *less than*. As it stands, the "
            "first token sees nothing at all.",
        ),
        Mistake(
            "index instead of position",
            lambda q_positions, kv_positions: lower_triangle(q_positions, kv_positions).bool(),
            BY_INDEX,
        ),
        Mistake(
            "triangle of ones",
            lower_triangle,
            "A triangle of ones has two faults: it compares places in the table instead of positions, so cached steps "
            "and padding go wrong, and it holds numbers where bool is asked for. Compare `q_positions` with "
            "`kv_positions`.",
        ),
        Mistake(
            "index counted from the end",
            causal_from_the_end,
            "You line the triangle up with the last key. That survives a cached step, but not padding, whose slots "
            "have an index too. Compare the positions themselves; then no case is special.",
        ),
        Mistake(
            "padding seen",
            causal_padding_seen,
            "The -1 is ignored: it is smaller than every position, so padding looks like a token of the distant past, "
            "and every query reads it. Ask of the key as well that its position is not -1.",
        ),
        Mistake(
            "keys as rows",
            lambda q_positions, kv_positions: causal_by_loops(q_positions, kv_positions).transpose(-2, -1),
            "The table lies on its side: a row belongs to a query and a column to a key, (..., Tq, Tk). Yours is "
            "(..., Tk, Tq).",
        ),
        Mistake(
            "float instead of bool",
            causal_with_infinities,
            "These are numbers to add to the scores, 0 and -inf. A mask in this course is bool, True = may attend; "
            "what is added is called `attn_bias`, and is another argument.",
        ),
        Mistake(
            "no batch",
            lambda q_positions, kv_positions: (
                (q_positions[:, None] >= kv_positions[None, :]) & (kv_positions >= 0)[None, :]
            ),
            NO_BATCH,
        ),
    ),
)
