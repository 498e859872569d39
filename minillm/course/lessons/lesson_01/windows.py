r"""Exercise: batches of windows from a running text."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

MANY = 256  # windows in which each of at most 8 places turns up: missed once in 10^14 runs
TOO_SHORT = "token_ids is too short for a window of seq_len and its next token: use a longer text"


def text_window_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for seq_len, n_places, batch_size in ((3, 4, 2), (1, 5, 3), (4, 8, 6), (draw.size(5, 9), draw.size(3, 8), 5)):
        text = torch.randperm(seq_len + n_places, generator=draw.generator) + draw.size(10, 90)
        yield (text, seq_len, batch_size, draw.new_generator()), {}
    yield (torch.arange(5), 4, 2, draw.new_generator()), {}
    yield (torch.arange(4), 4, 2, draw.new_generator()), {}  # no next token for the last one


def windows_seen(function: Callable[..., Any], token_ids: Tensor, seq_len: int, batch_size: int, generator: Any) -> Any:
    r"""What can be told of random windows: all ids of the text differ, so that a window shows where it began."""
    before = generator.clone_state()
    batch = function(token_ids, seq_len, batch_size, generator)
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        return batch
    inputs, targets = batch
    if inputs.shape != (batch_size, seq_len) or targets.shape != inputs.shape or inputs.dtype != token_ids.dtype:
        return {"shapes": (tuple(inputs.shape), tuple(targets.shape)), "dtype": str(inputs.dtype)}
    again, _ = function(token_ids, seq_len, batch_size, before)
    many, many_targets = function(token_ids, seq_len, MANY, generator)
    more, _ = function(token_ids, seq_len, MANY, generator)
    text = token_ids.tolist()
    starts = [text.index(row[0]) for row in many.tolist()]
    rows = list(zip(starts, many.tolist(), many_targets.tolist(), strict=True))
    n_places = len(text) - seq_len
    return {
        "inputs are pieces of the text": all(row == text[i : i + seq_len] for i, row, _ in rows),
        "targets are the tokens that come next": all(row == text[i + 1 : i + 1 + seq_len] for i, _, row in rows),
        f"places where {MANY} windows began": sorted(set(starts)),
        "they began in random order": n_places == 1 or starts != [(starts[0] + i) % n_places for i in range(MANY)],
        "the same generator gives the same batch": torch.equal(inputs, again),
        f"the next {MANY} windows are others": n_places == 1 or not torch.equal(many, more),
    }


def windows_by_rule(token_ids: Tensor, seq_len: int, batch_size: int, generator: Any) -> dict[str, Any]:
    if len(token_ids) <= seq_len:
        raise ValueError(TOO_SHORT)
    return {
        "inputs are pieces of the text": True,
        "targets are the tokens that come next": True,
        f"places where {MANY} windows began": list(range(len(token_ids) - seq_len)),
        "they began in random order": True,
        "the same generator gives the same batch": True,
        f"the next {MANY} windows are others": True,
    }


def windows_one_by_one(token_ids: Tensor, seq_len: int, batch_size: int, generator: Any) -> tuple[Tensor, Tensor]:
    if len(token_ids) <= seq_len:
        raise ValueError(TOO_SHORT)
    starts = torch.randint(len(token_ids) - seq_len, (batch_size,), generator=generator).tolist()
    inputs = torch.stack([token_ids[i : i + seq_len] for i in starts])
    return inputs, torch.stack([token_ids[i + 1 : i + 1 + seq_len] for i in starts])


def cut_at(starts: Callable[..., Tensor], shift: int = 1, refuse: bool = True) -> Callable[..., Any]:
    r"""Windows at the places that `starts(number of places, batch size, seq_len, generator)` gives."""

    def batch(token_ids: Tensor, seq_len: int, batch_size: int, generator: Any) -> tuple[Tensor, Tensor]:
        if refuse and len(token_ids) <= seq_len:
            raise ValueError(TOO_SHORT)
        first = starts(len(token_ids) - seq_len, batch_size, seq_len, generator)
        windows = token_ids[first[:, None] + torch.arange(seq_len + 1)]
        return windows[:, :-1], windows[:, shift : shift + seq_len]

    return batch


def anywhere(n_places: int, batch_size: int, seq_len: int, generator: Any) -> Tensor:
    return torch.randint(n_places, (batch_size,), generator=generator)


def scattered_tokens(token_ids: Tensor, seq_len: int, batch_size: int, generator: Any) -> tuple[Tensor, Tensor]:
    if len(token_ids) <= seq_len:
        raise ValueError(TOO_SHORT)
    places = torch.randint(len(token_ids) - 1, (batch_size, seq_len), generator=generator)
    return token_ids[places], token_ids[places + 1]


NEXT_TOKEN_BATCH = Exercise(
    id="text.batches.next_token_batch",
    lesson="01",
    title="A batch of windows",
    task="Cut `batch_size` windows out of a long text, each at a random place, and give inputs and targets. The "
    "targets are the inputs one step later. All chance comes from `generator`, and every place where a window and "
    "its next token fit must be possible.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=24,
    hints=(
        "A text of 7 tokens, windows of 4. Where may a window begin, if each of its 4 tokens needs a next one? Count.",
        "`torch.randint(n, (batch_size,), generator=generator)` draws places from 0 to n - 1.",
        "Places as a column, (B, 1), plus `torch.arange(...)` as a row give a table of indices: lesson 00's "
        "broadcasting.",
        "Cut windows of `seq_len + 1` tokens; both inputs and targets are in them.",
    ),
    cases=text_window_cases,
    oracle=windows_by_rule,
    other_style=windows_one_by_one,
    probe=windows_seen,
    tolerance=Tolerance(0.0, 0.0, "token ids"),
    mistakes=(
        Mistake(
            "targets not shifted",
            cut_at(anywhere, shift=0),
            "The targets are the inputs themselves: the model is asked for the token that it has just been given, and "
            "its loss falls to 0 without learning anything. Shift them by one.",
        ),
        Mistake(
            "last place left out",
            cut_at(lambda n, b, t, g: torch.randint(n - 1, (b,), generator=g) if n > 1 else anywhere(n, b, t, g)),
            "The last place never comes up, so the last token is never a target. A text of n tokens has n - seq_len "
            "places, 0 to n - seq_len - 1, and `torch.randint` leaves its upper end out already.",
        ),
        Mistake(
            "one place too many",
            cut_at(lambda n, b, t, g: anywhere(n + 1, b, t, g)),
            "Sometimes a window begins so late that its last token has no next one. n tokens have n - seq_len places.",
        ),
        Mistake(
            "one place for all",
            cut_at(lambda n, b, t, g: torch.randint(n, (1,), generator=g).expand(b)),
            "All windows of a batch begin at the same place: the model sees one window, many times. Draw a place for "
            "each.",
        ),
        Mistake(
            "places in order",
            cut_at(lambda n, b, t, g: torch.arange(b) % n),
            "Nothing is random: each batch is the same. Draw the places from the generator.",
        ),
        Mistake(
            "windows side by side",
            cut_at(lambda n, b, t, g: torch.randint(-(-n // t), (b,), generator=g) * t),
            "Your windows begin at multiples of seq_len only. Then some tokens always stand at the beginning of a "
            "window, where there is no context, and never anywhere else. Any place may be a beginning.",
        ),
        Mistake(
            "generator not used",
            cut_at(lambda n, b, t, g: torch.randint(n, (b,))),
            "You draw from torch's global generator. Then nobody can repeat a run, and every other use of chance in "
            "the program changes your batches. Hand `generator=generator` on.",
        ),
        Mistake(
            "seeded again each time",
            cut_at(lambda n, b, t, g: torch.randint(n, (b,), generator=g.manual_seed(0))),
            "You seed the generator in the function, so every batch is the first one. Whoever made the generator has "
            "seeded it; here it is only drawn from.",
        ),
        Mistake(
            "tokens scattered",
            scattered_tokens,
            "You draw every token by itself. A window is a piece of the text: what comes before a token is what it is "
            "predicted from.",
        ),
        Mistake(
            "short text not refused",
            cut_at(anywhere, refuse=False),
            "A text that is too short for one window and its next token must be refused with a ValueError that says "
            "so; the error that torch gives here helps nobody.",
        ),
    ),
)
