r"""Cross-attention."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_02.multi_head import (
    FOUR_PRODUCTS,
    WRONG_EVERYWHERE,
    cross_attention_oracle,
    cross_attention_other_style,
    square_weights,
)


def cross_attention_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, t, s, h, d = draw.sizes(5, 2, 6)
    real = torch.arange(s) < draw.integers(1, s, b, 1)
    yield (draw.normal(1, 2, 4), draw.normal(1, 3, 4), *square_weights(draw, 4), 2), {}
    yield (draw.normal(b, t, h * d), draw.normal(b, t, h * d), *square_weights(draw, h * d), h), {}
    x, memory = (draw.normal(b, length, h * d, dtype=torch.float64) for length in (t, s))
    yield (x, memory, *square_weights(draw, h * d, torch.float64), h, real[:, None, None]), {}
    # the memory has a width of its own
    w_q, w_o = draw.normal(h * d, t + 6, scale=0.5), draw.normal(t + 6, h * d, scale=0.5)
    w_k, w_v = (draw.normal(h * d, s + 8, scale=0.5) for _ in range(2))
    yield (draw.normal(b, t, t + 6), draw.normal(b, s, s + 8), w_q, w_k, w_v, w_o, h), {"mask": real[:, None, None]}


def cross_from(choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> Callable[..., Tensor]:
    r"""Cross-attention whose queries, keys and values come from wherever `choose` says."""

    def wrong(
        x: Tensor,
        memory: Tensor,
        w_q: Tensor,
        w_k: Tensor,
        w_v: Tensor,
        w_o: Tensor,
        n_heads: int,
        mask: Tensor | None = None,
    ) -> Tensor:
        sources = choose(x, memory)
        split = (
            (y @ w.T).unflatten(-1, (n_heads, -1)).transpose(1, 2)
            for y, w in zip(sources, (w_q, w_k, w_v), strict=True)
        )
        found = torch.nn.functional.scaled_dot_product_attention(*split, attn_mask=mask)
        return found.transpose(1, 2).flatten(2) @ w_o.T

    return wrong


CROSS_ATTENTION = Exercise(
    id="layers.multi_head.cross_attention",
    lesson="02",
    title="Cross-attention",
    task="As `multi_head_attention`, except that only the queries come from `x`; keys and values come from `memory`, "
    "which may have another length and another width.",
    difficulty=1,
    minutes=6,
    points=3,
    seed=28,
    hints=(
        "Who asks? Those are the queries, one for each row of the result. Who is read? Those are the keys and values.",
        "Take your `multi_head_attention` and ask of every `x` in it: is it the one who asks, or the one who is read?",
    ),
    cases=cross_attention_cases,
    oracle=cross_attention_oracle,
    other_style=cross_attention_other_style,
    tolerance=FOUR_PRODUCTS,
    mistakes=(
        Mistake(
            "keys and values from x",
            cross_from(lambda x, memory: (x, x, x)),
            "Keys and values are made from `x`, so this is self-attention, and `memory` is never read. Only the "
            "queries come from `x`.",
        ),
        Mistake(
            "values from x",
            cross_from(lambda x, memory: (x, memory, x)),
            "You search in `memory`, but then average the values of `x`. Keys and values belong together, row by row: "
            "both come from `memory`.",
        ),
        Mistake(
            "memory asks",
            cross_from(lambda x, memory: (memory, x, x)),
            "The roles are swapped: your queries come from `memory`. The result has a row for each token that asks, so "
            "it must have the length of `x`.",
        ),
        Mistake(
            "memory put before x",
            cross_from(lambda x, memory: (x, *[torch.cat([memory, x], dim=1)] * 2)),
            "You read `memory` and `x` together. That is a design of its own (a prefix), but here `x` itself is not "
            "among the keys and values.",
        ),
        Mistake(
            "mask not handed on",
            lambda x, memory, w_q, w_k, w_v, w_o, n_heads, mask=None: cross_attention_oracle(
                x, memory, w_q, w_k, w_v, w_o, n_heads
            ),
            "The mask gets lost, so padding in the memory is read like words. Hand it on to `sdpa`.",
        ),
        *(Mistake(name, wrong, message) for name, (wrong, message) in WRONG_EVERYWHERE.items()),
    ),
)
