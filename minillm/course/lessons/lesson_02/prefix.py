r"""The prefix mask."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_02.causal import BY_INDEX, causal_by_loops, position_pairs, table_of_pairs


def prefix_mask_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.arange(5), torch.arange(5), 3), {}
    for q_positions, kv_positions in position_pairs(draw):
        yield (q_positions, kv_positions, draw.size(2, 3)), {}
    n = draw.size(4, 7)
    yield (torch.arange(n), torch.arange(n)), {"prefix_len": draw.choice((0, n, n + 2))}
    yield (torch.arange(n), torch.arange(n), -draw.size(1, 4)), {}


def prefix_by_loops(q_positions: Tensor, kv_positions: Tensor, prefix_len: int) -> Tensor:
    if prefix_len < 0:
        raise ValueError(f"prefix_len={prefix_len} is negative")
    return table_of_pairs(q_positions, kv_positions, lambda i, j: j <= i or j < prefix_len)


def prefix_as(rule: Callable[[int, int, int], bool]) -> Callable[..., Tensor]:
    r"""A prefix mask by another rule, with the check of `prefix_len` in order."""

    def wrong(q_positions: Tensor, kv_positions: Tensor, prefix_len: int) -> Tensor:
        if prefix_len < 0:
            raise ValueError(f"prefix_len={prefix_len} is negative")
        return table_of_pairs(q_positions, kv_positions, lambda i, j: rule(i, j, prefix_len))

    return wrong


def prefix_padding_seen(q_positions: Tensor, kv_positions: Tensor, prefix_len: int) -> Tensor:
    prefix = (kv_positions < prefix_len)[..., None, :]
    return prefix_by_loops(q_positions, kv_positions, prefix_len) | (prefix & (q_positions >= -1)[..., :, None])


def prefix_padding_queries(q_positions: Tensor, kv_positions: Tensor, prefix_len: int) -> Tensor:
    prefix = ((kv_positions < prefix_len) & (kv_positions >= 0))[..., None, :]
    return prefix_by_loops(q_positions, kv_positions, prefix_len) | (prefix & (q_positions >= -1)[..., :, None])


def prefix_by_index(q_positions: Tensor, kv_positions: Tensor, prefix_len: int) -> Tensor:
    if prefix_len < 0:
        raise ValueError(f"prefix_len={prefix_len} is negative")
    both_real = table_of_pairs(q_positions, kv_positions, lambda i, j: True)
    in_prefix = torch.arange(kv_positions.shape[-1]) < prefix_len
    return (causal_by_loops(q_positions, kv_positions) | in_prefix) & both_real


def prefix_other_style(q_positions: Tensor, kv_positions: Tensor, prefix_len: int) -> Tensor:
    if prefix_len < 0:
        raise ValueError(f"prefix_len={prefix_len} is negative")
    # A query in the prefix may look as far as the prefix goes: as if it stood on its last place.
    reach = torch.where(q_positions >= 0, q_positions.clamp(min=prefix_len - 1), -1)
    return (kv_positions[..., None, :] <= reach[..., :, None]) & (kv_positions >= 0)[..., None, :]


PREFIX_MASK = Exercise(
    id="layers.masks.prefix_mask",
    lesson="02",
    title="The prefix mask",
    task="The first `prefix_len` positions see one another in both directions; everything after them is causal, and "
    "sees the prefix anyway. -1 marks padding as before. A negative `prefix_len` must be refused with a ValueError.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=22,
    hints=(
        "Draw the table for five tokens and a prefix of three. Which cells are new, compared with the causal mask?",
        "A key inside the prefix may be seen by everyone. So the rule has two parts joined by *or*: causal, or the key "
        "stands in the prefix. Your `causal_mask` gives the first part.",
        "-1 is less than any `prefix_len`, so padding passes for a part of the prefix, as a key and as a query. In the "
        "end, keep only pairs of which both positions are real: `masks.bidirectional_mask` is the table of these.",
    ),
    cases=prefix_mask_cases,
    oracle=prefix_by_loops,
    other_style=prefix_other_style,
    mistakes=(
        Mistake(
            "only causal",
            prefix_as(lambda i, j, p: j <= i),
            "This is the causal mask: the prefix makes no difference. Inside the prefix a token must also see the "
            "prefix tokens that come after it.",
        ),
        Mistake(
            "only bidirectional",
            prefix_as(lambda i, j, p: True),
            "Everyone sees everyone: right for an encoder, but here the tokens after the prefix are to be predicted, "
            "and must not be seen before their time.",
        ),
        Mistake(
            "prefix one too long",
            prefix_as(lambda i, j, p: j <= i or j <= p),
            "Your prefix is one token too long: with `prefix_len` 3 the positions 0, 1 and 2 belong to it, and 3 does "
            "not.",
        ),
        Mistake(
            "and instead of or",
            prefix_as(lambda i, j, p: j <= i and j < p),
            "You ask that a key be in the past *and* in the prefix, so nobody sees anything after the prefix. Either "
            "of the two is enough.",
        ),
        Mistake(
            "prefix queries see all",
            prefix_as(lambda i, j, p: j <= i or i < p),
            "You test the query where the key should be tested: your prefix tokens see the whole text, the part that "
            "is to be predicted included. The free sight ends where the prefix ends.",
        ),
        Mistake(
            "prefix alone",
            prefix_as(lambda i, j, p: i < p and j < p),
            "Only the prefix is left: the tokens after it see nothing, not even themselves. They are causal as usual.",
        ),
        Mistake(
            "padding joins the prefix",
            prefix_padding_seen,
            "-1 is smaller than `prefix_len`, so your padding belongs to the prefix and everybody reads it. Exclude "
            "pairs in which either position is -1.",
        ),
        Mistake(
            "padding queries see the prefix",
            prefix_padding_queries,
            "Padding keys are hidden, but a padding *query* still sees the prefix. A query of position -1 sees "
            "nothing: test both sides.",
        ),
        Mistake("index instead of position", prefix_by_index, BY_INDEX),
        Mistake(
            "negative length accepted",
            lambda q_positions, kv_positions, prefix_len: prefix_by_loops(
                q_positions, kv_positions, max(prefix_len, 0)
            ),
            "A negative `prefix_len` is always a mistake of the caller, and you let it pass in silence. Raise a "
            "ValueError that names the argument and its value.",
        ),
    ),
)
