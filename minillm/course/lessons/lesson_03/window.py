r"""The sliding window."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_02.causal import BY_INDEX, padded_positions, table_of_pairs


def window_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    n, window = draw.size(9, 12), draw.size(3, 4)
    yield (torch.arange(5), torch.arange(5), 2), {}
    yield (torch.arange(n), torch.arange(n)), {"window": window}
    yield (torch.tensor([n]), torch.arange(n + 1), window), {}  # one cached step
    yield (torch.arange(n - 3, n), torch.arange(n), window), {}
    left = padded_positions(draw, 3, n)
    yield (left, left, window), {}
    right = torch.arange(7)
    right[-2:] = -1
    yield (right, right, 3), {}
    yield (torch.arange(n), torch.arange(n), n + draw.size(0, 3)), {}  # wider than the text
    yield (torch.arange(4), torch.arange(4), 1), {}
    yield (torch.arange(4), torch.arange(4), -draw.size(0, 3)), {}  # to be refused


def window_as(rule: Callable[[int, int, int], bool]) -> Callable[..., Tensor]:
    r"""A window by another rule, with padding and the check of `window` in order."""

    def wrong(q_positions: Tensor, kv_positions: Tensor, window: int) -> Tensor:
        if window < 1:
            raise ValueError(f"window={window}: use at least 1")
        return table_of_pairs(q_positions, kv_positions, lambda i, j: rule(i, j, window))

    return wrong


def window_padding_seen(q_positions: Tensor, kv_positions: Tensor, window: int) -> Tensor:
    if window < 1:
        raise ValueError(f"window={window}: use at least 1")
    distance = q_positions[..., :, None] - kv_positions[..., None, :]
    return (distance >= 0) & (distance < window)


def window_by_index(q_positions: Tensor, kv_positions: Tensor, window: int) -> Tensor:
    if window < 1:
        raise ValueError(f"window={window}: use at least 1")
    i, j = torch.arange(q_positions.shape[-1])[:, None], torch.arange(kv_positions.shape[-1])
    real = (q_positions >= 0)[..., :, None] & (kv_positions >= 0)[..., None, :]
    return (j <= i) & (i - j < window) & real


def window_other_style(q_positions: Tensor, kv_positions: Tensor, window: int) -> Tensor:
    if window <= 0:
        raise ValueError(f"window={window} must be positive")
    q, k = q_positions.unsqueeze(-1), kv_positions.unsqueeze(-2)
    return (k <= q) & (k > q - window) & (k != -1)


SLIDING_WINDOW_MASK = Exercise(
    id="layers.masks.sliding_window_mask",
    lesson="03",
    title="The sliding window",
    task="Causal, and no further back than `window` keys, the query's own among them: with a window of 3, the query at "
    "position 7 sees 5, 6 and 7. As before, -1 marks padding, and positions may be (T,) or (B, T). A window below 1 "
    "must be refused with a ValueError.",
    difficulty=1,
    minutes=8,
    points=3,
    seed=33,
    hints=(
        "For a query at 7 and a window of 3, write the distance query minus key beside each key that is seen.",
        "Two conditions on that distance, then: one keeps the future out, the other the far past.",
        "You have the first one already, with padding in order: your `causal_mask`. "
        "`pairwise.broadcast_pairwise` gives all distances for the second.",
    ),
    cases=window_cases,
    oracle=window_as(lambda i, j, window: i - window < j <= i),
    other_style=window_other_style,
    mistakes=(
        Mistake(
            "twice too wide",
            window_as(lambda i, j, window: i - 2 * window < j <= i),
            "Your window is twice too wide: it reaches back 2 * `window` tokens. In the papers, a window of w with w/2 "
            "on each side is for encoders; here all `window` keys lie on the left, and `window` counts them all.",
        ),
        Mistake(
            "both sides",
            window_as(lambda i, j, window: abs(i - j) < window),
            "Your window reaches forward as well as back: it is nearly twice too wide, and the future leaks. Only "
            "distances of 0 and more may be seen.",
        ),
        Mistake(
            "one too wide",
            window_as(lambda i, j, window: i - window <= j <= i),
            "Your window is one key too wide: `window` counts the query's own key, so the largest distance is "
            "`window` - 1.",
        ),
        Mistake(
            "one too narrow",
            window_as(lambda i, j, window: i - window + 1 < j <= i),
            "Your window is one key too narrow. With a window of 1 a query must still see itself.",
        ),
        Mistake(
            "not itself",
            window_as(lambda i, j, window: i - window <= j < i),
            "Your query does not see itself: `window` keys are counted from the one before. The query's own key is the "
            "last of the window.",
        ),
        Mistake(
            "only causal",
            window_as(lambda i, j, window: j <= i),
            "This is the causal mask: the window makes no difference, and every query still sees the whole past.",
        ),
        Mistake(
            "far past instead of near",
            window_as(lambda i, j, window: j <= i - window),
            "You keep what lies *outside* of the window and hide what is near. Turn the second comparison round.",
        ),
        Mistake(
            "blocks instead of a window",
            window_as(lambda i, j, window: j <= i and i // window == j // window),
            "You cut the text into blocks of `window` tokens, so the first token of a block sees nothing of the past. "
            "A window slides: each query has its own.",
        ),
        Mistake(
            "padding seen",
            window_padding_seen,
            "A query near the beginning has position -1 within its window, and so reads padding; and padding queries "
            "read one another. Keys of position -1 are seen by nobody.",
        ),
        Mistake("index instead of position", window_by_index, BY_INDEX),
        Mistake(
            "bad window accepted",
            lambda q_positions, kv_positions, window: table_of_pairs(
                q_positions, kv_positions, lambda i, j: i - window < j <= i
            ),
            "A window of 0 or less hides everything, and softmax has nothing left to choose from. Raise a ValueError "
            "that names the argument and its value.",
        ),
    ),
)
