r"""The repetition penalty."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_09.keeping import Case


def padded_ids(draw: Draw, n_rows: int, seq_len: int, highest: int) -> Tensor:
    r"""Rows of token ids from 0 to `highest`, the first with padding in front, the last without."""
    token_ids = draw.integers(0, highest, n_rows, seq_len)
    token_ids[0, : draw.size(1, seq_len - 3)] = -1
    return token_ids


def repetition_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[2.0, -2.0, 1.0, -1.0]]), torch.tensor([[0, 1, 0]]), 2.0), {}
    for dtype in (torch.float32, torch.float64):
        n_rows, seq_len, vocab_size = draw.size(2, 4), draw.size(6, 9), draw.size(10, 17)
        token_ids = padded_ids(draw, n_rows, seq_len, vocab_size - 3)
        token_ids[:, -2:] = draw.size(0, 4)  # one that comes twice
        yield (draw.normal(n_rows, vocab_size, dtype=dtype, scale=2.0), token_ids, draw.size(12, 25) / 10), {}
        yield (draw.normal(n_rows, vocab_size, dtype=dtype), token_ids, draw.size(4, 8) / 10), {}
    logits = draw.normal(2, 9).index_fill(1, torch.tensor([1, 6]), float("-inf"))
    yield (logits, draw.integers(0, 6, 2, 5), 1.5), {}
    yield (draw.normal(2, 6), draw.integers(0, 4, 2, 3), 1.0), {}
    yield (draw.normal(2, 6), draw.integers(0, 4, 2, 3), -draw.size(0, 9) / 10), {}  # to be refused


def punished_by(rule: Callable[[float, float, int], float], seen: Callable[[list[list[int]], int, int], list[int]]):
    r"""A penalty by a rule for one logit, its penalty and how often it was seen, and a list of what was seen."""

    def wrong(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
        if penalty <= 0:
            raise ValueError("not above 0")
        rows, out = token_ids.tolist(), logits.tolist()
        for i, row in enumerate(out):
            occurred = seen(rows, i, len(row))
            for token in set(occurred):
                row[token] = rule(row[token], penalty, occurred.count(token))
        return torch.tensor(out, dtype=logits.dtype)

    return wrong


def real_ones(rows: list[list[int]], i: int, vocab_size: int) -> list[int]:
    return [token for token in rows[i] if token >= 0]


def down(x: float, penalty: float, count: int) -> float:
    return x / penalty if x > 0 else x * penalty


def by_gathering(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
    r"""In the manner of Hugging Face, with one column more for the padding."""
    if penalty <= 0:
        raise ValueError("not above 0")
    wide = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
    chosen = wide.gather(1, token_ids + 1)
    chosen = torch.where(chosen < 0, chosen * penalty, chosen / penalty)
    return wide.scatter(1, token_ids + 1, chosen)[:, 1:]


def punished_in_place(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
    return logits.copy_(by_gathering(logits, token_ids, penalty))


def unchecked_penalty(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
    if penalty > 0:
        return by_gathering(logits, token_ids, penalty)
    return torch.where(logits > 0, logits / penalty, logits * penalty)


REPETITION_PENALTY = Exercise(
    id="inference.penalties.repetition_penalty",
    lesson="09",
    title="The repetition penalty",
    task="Make each token that occurs in its row of `token_ids` less likely (for a `penalty` above 1): divide its "
    "logit if it is positive, multiply it if it is not. How often a token occurs plays no part, and -1 is padding, no "
    "token. A penalty of 0 or below must be refused with a ValueError.",
    difficulty=2,
    minutes=12,
    points=4,
    seed=95,
    hints=(
        "A logit of -2 divided by 2 is -1. Has the token become less likely?",
        "First find out, as a mask of the shape of the logits, which tokens occur. Then two values for every logit are "
        "easily computed, and `torch.where` takes the right one.",
        "For the mask: `scatter` writes True at the places that token_ids names. With -1 among them a vocabulary that "
        "is one column wider helps: shift all ids by one, and cut column 0 off again. Or use `penalties.occurs`, which "
        "lesson 09 brings along.",
    ),
    cases=repetition_cases,
    oracle=punished_by(down, real_ones),
    other_style=by_gathering,
    mistakes=(
        Mistake(
            "always divided",
            punished_by(lambda x, penalty, count: x / penalty, real_ones),
            "You divide whatever the sign. A negative logit comes nearer to 0 that way: what should be punished is "
            "encouraged. The formula in the CTRL paper reads like that, and code had to mend it.",
        ),
        Mistake(
            "always multiplied",
            punished_by(lambda x, penalty, count: x * penalty, real_ones),
            "You multiply whatever the sign. That pushes negative logits down, but positive ones up.",
        ),
        Mistake(
            "signs exchanged",
            punished_by(lambda x, penalty, count: x * penalty if x > 0 else x / penalty, real_ones),
            "Both cases are exchanged: your penalty rewards repetition. Positive logits are divided, negative ones "
            "multiplied.",
        ),
        Mistake(
            "subtracted",
            punished_by(lambda x, penalty, count: x - penalty, real_ones),
            "You subtract the penalty. That is the presence penalty, which does act alike on both signs; but here a "
            "penalty of 1 must change nothing.",
        ),
        Mistake(
            "for each occurrence",
            punished_by(lambda x, penalty, count: x / penalty**count if x > 0 else x * penalty**count, real_ones),
            "A token that came twice is punished twice. This penalty only asks whether a token occurred; one that "
            "grows with the count is the frequency penalty.",
        ),
        Mistake(
            "padding is a token",
            punished_by(down, lambda rows, i, vocab_size: [token % vocab_size for token in rows[i]]),
            "You punish the last token of the vocabulary where a row has padding: -1 as an index means the last. In a "
            "batch a text would then depend on how long the others are.",
        ),
        Mistake(
            "all rows together",
            punished_by(down, lambda rows, i, vocab_size: [token for row in rows for token in row if token >= 0]),
            "You collect what occurred over the whole batch. Each row answers for itself.",
        ),
        Mistake(
            "all but those",
            punished_by(down, lambda rows, i, vocab_size: [v for v in range(vocab_size) if v not in rows[i]]),
            "You punish all tokens that have *not* occurred: the condition is the wrong way round.",
        ),
        Mistake(
            "the last token only",
            punished_by(down, lambda rows, i, vocab_size: rows[i][-1:]),
            "You punish the last token only. A loop of five words never meets that; everything that was read and "
            "written counts.",
        ),
        Mistake(
            "zero accepted",
            unchecked_penalty,
            "You accept a penalty of 0 or below. Dividing by it gives infinities or turns the order round: refuse it "
            "with a ValueError.",
        ),
        Mistake(
            "input changed",
            punished_in_place,
            "The result is right, but the caller's logits have been changed. Make a new tensor: `scatter`, not "
            "`scatter_`.",
        ),
    ),
)
