r"""What a cache with sinks keeps."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]


def evict_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.arange(7)[:, None], 2, 3), {}
    b, h, width = draw.sizes(3, 2, 5)
    n_sinks, window = draw.size(2, 4), draw.size(5, 6)
    for seq_len in (n_sinks + window + 1, n_sinks + window + draw.size(4, 7), n_sinks + window, n_sinks + window - 2):
        yield (draw.normal(b, h, seq_len, width), n_sinks, window), {}
    yield (draw.normal(b, h, n_sinks - 1, width), n_sinks, window), {}
    yield (draw.normal(b, 9, width, dtype=torch.float64), n_sinks, 0), {}
    yield (draw.normal(12, width), 0, window), {}
    yield (draw.normal(b, 9, width), n_sinks, -draw.size(1, 2)), {}  # to be refused


def picked_one_by_one(stored: Tensor, n_sinks: int, window: int) -> Tensor:
    r"""Ask of each token whether it is among the first or the last."""
    if min(n_sinks, window) < 0:
        raise ValueError(f"n_sinks={n_sinks}, window={window}: counts can't be negative")
    tokens = stored.unbind(-2)
    kept = [token for i, token in enumerate(tokens) if i < n_sinks or len(tokens) - i <= window]
    return torch.stack(kept, dim=-2) if kept else stored[..., :0, :]


def picked_by_mask(stored: Tensor, n_sinks: int, window: int) -> Tensor:
    if n_sinks < 0 or window < 0:
        raise ValueError(f"n_sinks={n_sinks}, window={window}")
    place = torch.arange(stored.shape[-2])
    return stored[..., (place < n_sinks) | (place >= stored.shape[-2] - window), :]


def evict_with(rule: Callable[[Tensor, int, int, int], Tensor], even_if_short: bool = False) -> Callable[..., Tensor]:
    r"""Another rule (stored, n_sinks, window, T) for what is kept, where something must go (or always)."""

    def wrong(stored: Tensor, n_sinks: int, window: int) -> Tensor:
        if n_sinks < 0 or window < 0:
            raise ValueError(f"n_sinks={n_sinks}, window={window}")
        seq_len = stored.shape[-2]
        if seq_len <= n_sinks + window and not even_if_short:
            return stored
        return rule(stored, n_sinks, window, seq_len)

    return wrong


def first_and_last(stored: Tensor, first: int, last: int) -> Tensor:
    return torch.cat([stored[..., :first, :], stored[..., max(stored.shape[-2] - last, 0) :, :]], dim=-2)


def minus_window(stored: Tensor, n_sinks: int, window: int, seq_len: int) -> Tensor:
    return torch.cat([stored[..., :n_sinks, :], stored[..., -window:, :]], dim=-2)


def recent_first(stored: Tensor, n_sinks: int, window: int, seq_len: int) -> Tensor:
    return torch.cat([stored[..., seq_len - window :, :], stored[..., :n_sinks, :]], dim=-2)


def emptied_between(stored: Tensor, n_sinks: int, window: int, seq_len: int) -> Tensor:
    out = stored.clone()
    out[..., n_sinks : seq_len - window, :] = 0
    return out


def negative_accepted(stored: Tensor, n_sinks: int, window: int) -> Tensor:
    return picked_by_mask(stored, max(n_sinks, 0), max(window, 0))


EVICT_WITH_SINKS = Exercise(
    id="inference.caches.sinks.evict_with_sinks",
    lesson="10",
    title="Sinks and a window",
    task="`stored` holds something of T tokens, (..., T, F), in the order of the text. Keep the first `n_sinks` and "
    "the last `window` of them, in the same order, and drop what lies between. While T is at most n_sinks + window "
    "there is nothing to drop. Both counts may be 0; a negative one must be refused with a ValueError.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=105,
    hints=(
        "Tokens a to g, two sinks, a window of 3: what is left? And of a, b, c, d?",
        "When T is small, the first ones and the last ones overlap. Try your code with T = 4 by hand: is a token there "
        "twice?",
        "`x[-3:]` are the last three. What is `x[-0:]`? Counted from the front, the last ones begin at T - window.",
    ),
    cases=evict_cases,
    oracle=picked_one_by_one,
    other_style=picked_by_mask,
    tolerance=Tolerance(0.0, 0.0, "numbers are copied, never computed with"),
    mistakes=(
        Mistake(
            "no sinks",
            evict_with(lambda stored, n_sinks, window, seq_len: first_and_last(stored, 0, window)),
            "You keep the window alone. The first tokens are what attention leans on when it has nothing to look for: "
            "without them a streaming model breaks down, as you will measure.",
        ),
        Mistake(
            "a longer window for the sinks",
            evict_with(lambda stored, n_sinks, window, seq_len: first_and_last(stored, 0, n_sinks + window)),
            "The number of tokens is right, but they are all recent ones: a window of n_sinks + window. The sinks are "
            "the *first* tokens of the text.",
        ),
        Mistake(
            "only the beginning",
            evict_with(lambda stored, n_sinks, window, seq_len: stored[..., : n_sinks + window, :]),
            "You keep the beginning of the text and drop what is newest. Behind the sinks come the *last* `window` "
            "tokens.",
        ),
        Mistake(
            "some tokens twice",
            evict_with(lambda stored, n_sinks, window, seq_len: first_and_last(stored, n_sinks, window), True),
            "While T is smaller than n_sinks + window, the first and the last tokens overlap, and you keep some of "
            "them twice. They then count double in every softmax. If there is nothing to drop, drop nothing.",
        ),
        Mistake(
            "minus zero",
            evict_with(minus_window),
            "With a window of 0 you keep everything: `x[-0:]` is `x[0:]`. Count from the front, T - window.",
        ),
        Mistake(
            "sinks inside the window's count",
            evict_with(lambda stored, n_sinks, window, seq_len: first_and_last(
                stored, n_sinks, max(window - n_sinks, 0))),
            "You keep `window` tokens in all, the sinks among them. The sinks come on top: n_sinks + window.",
        ),
        Mistake(
            "window one too short",
            evict_with(lambda stored, n_sinks, window, seq_len: first_and_last(stored, n_sinks, max(window - 1, 0))),
            "Your window is one token too short: the last `window` tokens begin at T - window.",
        ),
        Mistake(
            "one token dropped",
            evict_with(lambda stored, n_sinks, window, seq_len: first_and_last(stored, n_sinks, seq_len - n_sinks - 1)),
            "You drop a single token, however many there are too many. That does for one new token at a time; after a "
            "prompt of many the cache stays too large.",
        ),
        Mistake(
            "recent ones first",
            evict_with(recent_first),
            "You put the window before the sinks. The order is that of the text, because the tokens get their new "
            "positions from it.",
        ),
        Mistake(
            "emptied, not dropped",
            evict_with(emptied_between),
            "You set what lies between to zero. It still takes its memory, and a key of zeros has a score of 0, which "
            "softmax turns into weight. Leave those tokens out.",
        ),
        Mistake(
            "negative accepted",
            negative_accepted,
            "A negative count is a mistake of the caller's, and you make 0 of it in silence. Raise a ValueError.",
        ),
    ),
)
