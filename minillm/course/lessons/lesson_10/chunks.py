r"""Who sees whom when a chunk meets a cache."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Rule = Callable[..., bool]


def chunk_cases(draw: Draw) -> Iterator[Case]:
    yield (3, 2), {}
    yield (0, draw.size(3, 6)), {}
    n_cached, n_new = draw.size(4, 8), draw.size(3, 6)
    yield (n_cached, n_new), {}
    yield (n_cached, 1), {}
    yield (n_cached, n_new, padded_left(draw, 3, n_cached + n_new)), {}
    yield (n_cached, n_new, real_anywhere(draw, 3, n_cached + n_new)), {}
    yield (n_cached, n_new), {"window": draw.size(2, 4)}
    yield (0, n_new, None, 1), {}
    for window in (2, 3):
        yield (n_cached, n_new, real_anywhere(draw, 4, n_cached + n_new), window), {}
    yield (n_cached, n_new, padded_left(draw, 2, n_new)), {}  # to be refused: it does not cover the cached tokens


def padded_left(draw: Draw, n_rows: int, n_tokens: int) -> Tensor:
    r"""Rows with 1, 2, ... padding tokens in front, the first with none."""
    return torch.arange(n_tokens) >= torch.arange(n_rows)[:, None]


def real_anywhere(draw: Draw, n_rows: int, n_tokens: int) -> Tensor:
    r"""Real tokens and padding mixed; both among the cached and the new."""
    real = draw.booleans(n_rows, n_tokens, share=0.6)
    real[0, 1], real[0, 2], real[0, 0], real[0, -2:] = False, False, True, torch.tensor([False, True])
    return real


def sees_by_counting(query: int, key: int, real: list[bool], window: int | None) -> bool:
    r"""Count the real tokens from the key up to the query."""
    if key > query or not real[key] or not real[query]:
        return False
    return window is None or sum(real[key : query + 1]) <= window


def chunk_table(rule: Rule) -> Callable[..., Tensor]:
    r"""Ask rule(query, key, real, window) about every pair; query and key are counted from the first cached token."""

    def function(n_cached: int, n_new: int, padding_mask: Any = None, window: int | None = None) -> Tensor:
        total = n_cached + n_new
        if padding_mask is not None and padding_mask.shape[1] != total:
            raise ValueError(f"padding_mask {tuple(padding_mask.shape)}: it must cover {total} tokens")
        rows = [[True] * total] if padding_mask is None else padding_mask.tolist()
        table = [[[rule(n_cached + i, key, real, window) for key in range(total)] for i in range(n_new)]
                 for real in rows]
        out = torch.tensor(table, dtype=torch.bool)
        return out[0] if padding_mask is None else out

    return function


def chunk_other_style(n_cached: int, n_new: int, padding_mask: Any = None, window: int | None = None) -> Tensor:
    total = n_cached + n_new
    causal = torch.ones(n_new, total, dtype=torch.bool).tril(n_cached)
    if padding_mask is None:
        return causal if window is None else causal.triu(n_cached - window + 1)
    if padding_mask.shape[-1] != total:
        raise ValueError(f"padding_mask covers {padding_mask.shape[-1]} tokens, not {total}")
    place = padding_mask.long().cumsum(1)
    seen = causal & padding_mask[:, None, :] & padding_mask[:, n_cached:, None]
    return seen if window is None else seen & (place[:, n_cached:, None] - place[:, None, :] < window)


def changed_chunk(change: Callable[[Tensor, int, int], Tensor]) -> Callable[..., Tensor]:
    r"""The right mask, then change(mask, n_cached, n_new)."""

    def wrong(n_cached: int, n_new: int, padding_mask: Any = None, window: int | None = None) -> Tensor:
        return change(chunk_other_style(n_cached, n_new, padding_mask, window), n_cached, n_new)

    return wrong


def with_rows_of_all(n_cached: int, n_new: int, padding_mask: Any = None, window: int | None = None) -> Tensor:
    if padding_mask is not None and padding_mask.shape[1] != n_cached + n_new:
        raise ValueError("padding_mask must cover all tokens")
    return chunk_other_style(0, n_cached + n_new, padding_mask, window)


def short_padding_accepted(n_cached: int, n_new: int, padding_mask: Any = None, window: int | None = None) -> Tensor:
    if padding_mask is not None and padding_mask.shape[1] == n_new:
        cached = torch.ones(len(padding_mask), n_cached, dtype=torch.bool)
        padding_mask = torch.cat([cached, padding_mask], dim=1)
    return chunk_other_style(n_cached, n_new, padding_mask, window)


def top_left(n_cached: int, n_new: int, padding_mask: Any = None, window: int | None = None) -> Tensor:
    def rule(query: int, key: int, real: list[bool], window: int | None) -> bool:
        return key <= query - n_cached and sees_by_counting(query, key, real, window)

    return chunk_table(rule)(n_cached, n_new, padding_mask, window)


def only_each_other(n_cached: int, n_new: int, padding_mask: Any = None, window: int | None = None) -> Tensor:
    def rule(query: int, key: int, real: list[bool], window: int | None) -> bool:
        return key >= n_cached and sees_by_counting(query, key, real, window)

    return chunk_table(rule)(n_cached, n_new, padding_mask, window)


MASK_FOR_CHUNK = Exercise(
    id="inference.caches.chunk.mask_for_chunk",
    lesson="10",
    title="The mask of a chunk",
    task="`n_cached` tokens are in the cache, `n_new` come now. Only the new ones ask, so the mask has one row for "
    "each of them, and one column for every token, cached ones first. A token sees itself and what came before.\n\n"
    "`padding_mask` (B, n_cached + n_new), if given, says which tokens are real: nobody sees padding, and padding sees "
    "nobody. `window`, if given, counts the *real* tokens that a query sees, itself included. A padding mask that does "
    "not cover cached and new tokens must be refused with a ValueError.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=102,
    hints=(
        "Draw it for three cached and two new tokens. Which is the last column that the first row sees?",
        "You have this mask already: it is the last rows of the mask of the whole text. Give every token its position, "
        "and hand the positions of the new ones in as queries.",
        "With padding, a token's position is the number of real tokens up to it, less one: `cumsum`. Padding itself "
        "has position -1, which `causal_mask` and `sliding_window_mask` hide on both sides.",
    ),
    cases=chunk_cases,
    oracle=chunk_table(sees_by_counting),
    other_style=chunk_other_style,
    tolerance=Tolerance(0.0, 0.0, "True or False"),
    mistakes=(
        Mistake(
            "diagonal from the corner",
            top_left,
            "Your diagonal starts in the top left corner, as for a text without a cache: the first new token sees only "
            "the first cached one. Row i is token n_cached + i. Nothing fails when this goes wrong, the model only "
            "writes worse.",
        ),
        Mistake(
            "the cache is hidden",
            only_each_other,
            "The new tokens see each other and nothing of the cache. Then there was no need to keep it: every cached "
            "token came before.",
        ),
        Mistake(
            "the future of the chunk",
            chunk_table(lambda q, k, real, window: sees_by_counting(max(q, k), min(q, k), real, window)),
            "New tokens see new tokens that come after them. With one token at a time that cannot show; in a prompt of "
            "many it does.",
        ),
        Mistake(
            "not itself",
            chunk_table(lambda q, k, real, window: k < q and sees_by_counting(q, k, real, window)),
            "A token does not see itself. Its own key is in the cache by the time it asks.",
        ),
        Mistake(
            "rows of all tokens",
            with_rows_of_all,
            "There is a row for every token, cached ones too. Cached tokens ask nothing any more: only the new ones "
            "have queries.",
        ),
        Mistake(
            "rows and columns exchanged",
            changed_chunk(lambda mask, n_cached, n_new: mask.transpose(-1, -2)),
            "Rows and columns are exchanged. Queries are rows, keys are columns: (n_new, n_cached + n_new).",
        ),
        Mistake(
            "True means hidden",
            changed_chunk(lambda mask, n_cached, n_new: ~mask),
            "Your mask says True where a key is hidden. In this course True means: may attend.",
        ),
        Mistake(
            "padding keys seen",
            chunk_table(lambda q, k, real, window: real[q] and k <= q and (
                window is None or sum(real[k : q + 1]) <= window)),
            "Real tokens see padding. The padding mask says what the *keys* are as well, those in the cache included.",
        ),
        Mistake(
            "padding asks",
            chunk_table(lambda q, k, real, window: real[k] and k <= q and (
                window is None or sum(real[k : q + 1]) <= window)),
            "A padding token among the new ones still sees keys. Its row is to be False throughout.",
        ),
        Mistake(
            "padding ignored",
            chunk_table(lambda q, k, real, window: k <= q and (window is None or q - k < window)),
            "The padding mask makes no difference in what you return: a row that was padded is not what it would be "
            "alone.",
        ),
        Mistake(
            "window ignored",
            chunk_table(lambda q, k, real, window: sees_by_counting(q, k, real, None)),
            "The window makes no difference: every new token sees the whole past.",
        ),
        Mistake(
            "window in slots",
            chunk_table(lambda q, k, real, window: sees_by_counting(q, k, real, None) and (
                window is None or q - k < window)),
            "Your window counts padding. Between two real tokens there may be padding, and the window is about the "
            "text: take differences of positions, not of slots.",
        ),
        Mistake(
            "window one too wide",
            chunk_table(lambda q, k, real, window: sees_by_counting(q, k, real, window and window + 1)),
            "Your window is one key too wide: it counts the query's own key.",
        ),
        Mistake(
            "short padding mask accepted",
            short_padding_accepted,
            "A padding mask of the new tokens alone says nothing about the cached ones, and you take them all for "
            "real. Raise a ValueError: it has to cover both.",
        ),
    ),
)
