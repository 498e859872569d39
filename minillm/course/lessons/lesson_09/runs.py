r"""No run of n tokens twice."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_09.keeping import FORBIDDEN, Case
from minillm.course.lessons.lesson_09.repeating import padded_ids


def run_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.zeros(1, 5), torch.tensor([[0, 1, 2, 0, 1]]), 3), {}
    yield (draw.normal(2, 8), torch.tensor([[1, 2, 3, 1, 2, 4, 1, 2], [0, 3, 3, 3, 3, 5, 3, 3]]), 3), {}
    for n in (1, 2, 3):
        n_rows, seq_len, vocab_size = draw.size(3, 4), draw.size(16, 20), draw.size(7, 9)
        yield (draw.normal(n_rows, vocab_size), padded_ids(draw, n_rows, seq_len, 2), n), {}
    yield (draw.normal(2, 6, dtype=torch.float64), draw.integers(0, 1, 2, 24), 4), {}
    yield (draw.normal(2, 6), draw.integers(0, 1, 2, 3), draw.size(4, 6)), {}  # nothing can have come twice yet
    yield (draw.normal(2, 6), padded_ids(draw, 2, 7, 1), 1), {}
    yield (draw.normal(2, 6), draw.integers(0, 4, 2, 3), -draw.size(0, 2)), {}  # to be refused


def forbids(ends: Callable[[list[int], int], list[int]], fill: float = FORBIDDEN, rows_of: Any = None):
    r"""A filter from a function that names for one row what may not come next; -1 is the last token, as in Python."""

    def forbidden(logits: Tensor, token_ids: Tensor, n: int) -> Tensor:
        if n < 1:
            raise ValueError("at least 1")
        out = logits.clone()
        for i, row in enumerate(token_ids.tolist()):
            for token in ends(row, n):
                out[i, token] = fill
        return out

    return forbidden


def no_padding(ends: Callable[[list[int], int], list[int]]) -> Callable[[list[int], int], list[int]]:
    return lambda row, n: ends([token for token in row if token >= 0], n)


def starts_of(row: list[int], n: int) -> list[int]:
    r"""Where the last n - 1 tokens have stood before, with a token behind them."""
    last = row[len(row) - n + 1 :]
    return [i for i in range(len(row) - n + 1) if row[i : i + n - 1] == last] if len(row) >= n else []


def ends_of_runs(row: list[int], n: int) -> list[int]:
    return [row[i + n - 1] for i in starts_of(row, n)]


def by_dict(logits: Tensor, token_ids: Tensor, n: int) -> Tensor:
    r"""Remember for every beginning of a run what followed it."""
    if n <= 0:
        raise ValueError("n must be positive")
    mask = torch.zeros_like(logits, dtype=torch.bool)
    for b in range(len(token_ids)):
        row = token_ids[b][token_ids[b] != -1].tolist()
        followed: dict[tuple[int, ...], set[int]] = {}
        for i in range(n - 1, len(row)):
            followed.setdefault(tuple(row[i - n + 1 : i]), set()).add(row[i])
        for token in followed.get(tuple(row[len(row) - n + 1 :]), ()):
            mask[b, token] = True
    return logits.masked_fill(mask, FORBIDDEN)


def of_all_rows_together(logits: Tensor, token_ids: Tensor, n: int) -> Tensor:
    if n < 1:
        raise ValueError("at least 1")
    gone = (by_dict(logits, token_ids, n) == FORBIDDEN).any(dim=0, keepdim=True)
    return logits.masked_fill(gone, FORBIDDEN)


NO_REPEAT_NGRAM = Exercise(
    id="inference.penalties.no_repeat_ngram",
    lesson="09",
    title="No run of n tokens twice",
    task="Set to -inf the logit of every token that would complete a run of `n` tokens which its row of `token_ids` "
    "has had already. -1 is padding and part of no run; rows shorter than n forbid nothing; an n below 1 must be "
    "refused with a ValueError. Loops over rows and places are fine here.",
    difficulty=3,
    minutes=18,
    points=5,
    seed=96,
    hints=(
        "Written: 0 1 2 0 1, and n is 3. The run that is being written has 0 1 so far. What followed 0 1 before?",
        "For each row: take the padding away; take the last n - 1 tokens; look at every place where these stand "
        "earlier, and forbid the token behind it.",
        "With n = 1 there are no tokens to look for: the empty run stands before every token, so all that have "
        "occurred are forbidden. `row[-(n - 1):]` is the whole row then; count from the front instead.",
    ),
    cases=run_cases,
    oracle=forbids(no_padding(ends_of_runs)),
    other_style=by_dict,
    mistakes=(
        Mistake(
            "nothing forbidden",
            forbids(lambda row, n: []),
            "Nothing is forbidden. Look for earlier places of the last n - 1 tokens, and forbid what followed there.",
        ),
        Mistake(
            "all that occurred",
            forbids(no_padding(lambda row, n: row)),
            "You forbid every token that has occurred. That is n = 1; for larger n only the end of a *run* is "
            "forbidden, and single words may come again.",
        ),
        Mistake(
            "n tokens before it",
            forbids(no_padding(lambda row, n: ends_of_runs(row, n + 1))),
            "Your runs are one token too long: you compare the last n tokens. A run of n is n - 1 tokens and the new "
            "one.",
        ),
        Mistake(
            "always pairs",
            forbids(no_padding(lambda row, n: ends_of_runs(row, 2))),
            "You compare the last token alone, whatever n is. So every pair is forbidden the second time.",
        ),
        Mistake(
            "the first place only",
            forbids(no_padding(lambda row, n: ends_of_runs(row, n)[:1])),
            "You stop at the first place where the run began before. It may have gone on differently at other places, "
            "and each of those ends is forbidden.",
        ),
        Mistake(
            "whole runs",
            forbids(no_padding(lambda row, n: [token for i in starts_of(row, n) for token in row[i : i + n]])),
            "You forbid all tokens of the earlier run. Only its last one would complete it.",
        ),
        Mistake(
            "padding is a token",
            forbids(ends_of_runs),
            "You take the padding for tokens: -1 as an index forbids the last token of the vocabulary.",
        ),
        Mistake(
            "all rows together",
            of_all_rows_together,
            "What one row has had is forbidden to all. Each row is a text of its own.",
        ),
        Mistake(
            "zeros",
            forbids(no_padding(ends_of_runs), fill=0.0),
            "You set forbidden logits to 0. That forbids nothing, and may even make the token likelier: use -inf.",
        ),
    ),
)
