r"""Outliers in floats, all else in 8 bits."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_11.grids import exact_near_codes, numbers_near_codes

Codes = tuple[Tensor, Tensor]


def outlier_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for threshold, signs in ((None, (-1, 1)), (None, (1, -1)), (3.0, (-1, 1))):
        t, c, r = draw.size(4, 6), draw.size(6, 9), draw.size(3, 5)
        x, weight = _tokens(draw, t, c), numbers_near_codes(draw, r, c)
        x, weight = _with_outliers(draw, x.float(), weight.float(), signs)
        yield (x, weight), {} if threshold is None else {"threshold": threshold}
    x, weight = _tokens(draw, 5, 8), numbers_near_codes(draw, 4, 8)
    yield (x.float(), weight.float()), {}  # no outlier
    yield _with_outliers(draw, x, weight), {}
    x, weight = exact_near_codes(draw, 3, 6, 2.0**-6), exact_near_codes(draw, 4, 6, 2.0**-6)
    yield _with_outliers(draw, x, weight, signs=(1, 1)), {}


def _tokens(draw: Draw, n_tokens: int, n_columns: int) -> Tensor:
    r"""Ordinary features of tokens of different size, none further from 0 than 2.54."""
    return numbers_near_codes(draw, n_tokens, n_columns, 0.02) * (draw.integers(20, 100, n_tokens, 1) / 100).double()


def _with_outliers(draw: Draw, x: Tensor, weight: Tensor, signs: tuple[int, int] = (-1, 1)) -> tuple[Tensor, Tensor]:
    r"""Put in three more columns: one outlier in one token, outliers in all, and one in half of the tokens."""
    ordinary = draw.integers(1, 100, len(x), 3) / 64.0
    outliers = draw.integers(10 * 64, 50 * 64, len(x), 3) / 64.0
    outliers[:, 0] = draw.size(7 * 64, 9 * 64) / 64.0  # large enough, but not on average
    tokens = torch.arange(len(x))
    large = torch.stack([tokens == 1, tokens >= 0, tokens % 2 == 0], dim=1)
    columns = torch.where(large, outliers, ordinary) * torch.tensor([signs[0], signs[1], 1])
    weights = draw.integers(64, 250, len(weight), 3) / 64.0
    order = torch.randperm(x.shape[1] + 3, generator=draw.generator)
    return tuple(torch.cat([part, more.to(part.dtype)], dim=1)[:, order]
                 for part, more in ((x, columns), (weight, weights)))


def _whole(x: Tensor) -> Codes:
    step = x.abs().amax(dim=-1, keepdim=True) / 127
    return (x / torch.where(step == 0, 1.0, step)).round(), step


def entry_by_entry(x: Tensor, weight: Tensor, threshold: float = 6.0) -> Tensor:
    r"""Each number of the result from its own two rows, in Python numbers."""
    columns = list(zip(*x.double().tolist(), strict=True))
    wide = [c for c, column in enumerate(columns) if max(map(abs, column)) > threshold]
    narrow = [c for c in range(len(columns)) if c not in wide]

    def entry(token: list[float], row: list[float]) -> float:
        steps = [max(abs(values[c]) for c in narrow) / 127 for values in (token, row)]
        whole = sum(round(token[c] / steps[0]) * round(row[c] / steps[1]) for c in narrow)
        return whole * steps[0] * steps[1] + sum(token[c] * row[c] for c in wide)

    out = [[entry(token, row) for row in weight.double().tolist()] for token in x.double().tolist()]
    return torch.tensor(out, dtype=x.dtype)


def split_with(
    find: Callable[[Tensor, float], Tensor] = lambda x, t: (x.abs() > t).any(dim=0),
    rounded: Callable[[Tensor, Tensor, Tensor], tuple[Codes, Codes]] = lambda x, w, wide: (
        _whole(x.masked_fill(wide, 0)), _whole(w.masked_fill(wide, 0))),
    floats: Callable[[Tensor, Tensor, Tensor], Any] = lambda x, w, wide: (x * wide) @ (w * wide).T,
    keep_dtype: bool = True,
) -> Callable[..., Tensor]:
    r"""A split in which one thing is done in another way."""

    def function(x: Tensor, weight: Tensor, threshold: float = 6.0) -> Tensor:
        exact, rows = (part if part.dtype == torch.float64 else part.float() for part in (x, weight))
        wide = find(exact, threshold)
        (codes, steps), (row_codes, row_steps) = rounded(exact, rows, wide)
        out = (codes @ row_codes.T) * steps * row_steps.T + floats(exact, rows, wide)
        return out.to(x.dtype) if keep_dtype else out

    return function


def scales_of_all(x: Tensor, weight: Tensor, wide: Tensor, of_x: bool, of_weight: bool) -> tuple[Codes, Codes]:
    r"""Round with the outliers still there, then take their columns out."""
    coded = []
    for part, first in ((x, of_x), (weight, of_weight)):
        codes, steps = _whole(part if first else part.masked_fill(wide, 0))
        coded.append((codes.masked_fill(wide, 0), steps))
    return coded[0], coded[1]


def one_step_for_all(x: Tensor, weight: Tensor, wide: Tensor) -> tuple[Codes, Codes]:
    codes, steps = _whole(x.masked_fill(wide, 0).reshape(1, -1))
    return (codes.reshape(x.shape), steps), _whole(weight.masked_fill(wide, 0))


def single_numbers(x: Tensor, weight: Tensor, threshold: float = 6.0) -> Tensor:
    exact, rows = (part if part.dtype == torch.float64 else part.float() for part in (x, weight))
    wide = exact.abs() > threshold
    (codes, steps), (row_codes, row_steps) = _whole(exact.masked_fill(wide, 0)), _whole(rows)
    return ((codes @ row_codes.T) * steps * row_steps.T + (exact * wide) @ rows.T).to(x.dtype)


def whole_tokens(x: Tensor, weight: Tensor, threshold: float = 6.0) -> Tensor:
    exact, rows = (part if part.dtype == torch.float64 else part.float() for part in (x, weight))
    wide = (exact.abs() > threshold).any(dim=1, keepdim=True)
    (codes, steps), (row_codes, row_steps) = _whole(exact), _whole(rows)
    return torch.where(wide, exact @ rows.T, (codes @ row_codes.T) * steps * row_steps.T).to(x.dtype)


OUTLIER_SPLIT = Exercise(
    id="inference.quantization.outliers.outlier_split",
    lesson="11",
    title="Outliers apart",
    task="Give x @ weight.T for activations `x` (T, C) and `weight` (R, C), as LLM.int8() does. A *column* in which "
    "any token is further from 0 than `threshold` is an outlier. Outlier columns of both matrices are multiplied as "
    "they are, in float32. All other columns are rounded to 8 bits first, x with a scale for each token, the weight "
    "with a scale for each row, both without the outlier columns: whole numbers are multiplied, and the sums scaled "
    "back. The result is the sum of both parts, in the dtype of x.\n\n"
    "`rows.quantize_rows` rounds rows. The product of the codes may be computed in float32, which holds whole numbers "
    "of this size exactly. There may be no outlier at all.",
    difficulty=3,
    minutes=20,
    points=5,
    seed=114,
    hints=(
        "First the columns: `(…).any(dim=…)` over which axis gives one answer for each of the C features?",
        "Take the columns apart before you round, not after: what would a 60 in a token do to the scale of its other "
        "numbers? You can set columns to 0 with `masked_fill`, or pick them with `x[:, columns]`.",
        "The sum over whole numbers for token t and output r is multiplied with the scale of t and with the scale of "
        "r: shapes (T, 1) and (1, R).",
        "Two products, one sum: the rounded one over all columns but the outliers, the float one over these alone. "
        "Does any column take part in both?",
    ),
    cases=outlier_cases,
    oracle=entry_by_entry,
    other_style=split_with(),
    tolerance=Tolerance(1e-5, 1e-4, "float32 sums of terms up to some hundred"),
    mistakes=(
        Mistake(
            "no split",
            split_with(find=lambda x, t: torch.zeros(x.shape[1], dtype=torch.bool)),
            "Everything is rounded to 8 bits, outliers included. One of them stretches the scale of its token, and the "
            "other numbers of the token share a handful of codes.",
        ),
        Mistake(
            "nothing rounded",
            split_with(find=lambda x, t: torch.ones(x.shape[1], dtype=torch.bool)),
            "You multiply everything in floats: exact, but nothing is saved. The columns without outliers are to go "
            "through 8 bits.",
        ),
        Mistake(
            "without absolute values",
            split_with(find=lambda x, t: (x > t).any(dim=0)),
            "Outliers below 0 are not found: you compare x itself with the threshold. How far a number is from 0 is "
            "its absolute value.",
        ),
        Mistake(
            "large in every token",
            split_with(find=lambda x, t: (x.abs() > t).all(dim=0)),
            "You take the columns in which *every* token is large. One token with a large number is enough to spoil "
            "that token's scale: `any`, not `all`.",
        ),
        Mistake(
            "large on average",
            split_with(find=lambda x, t: x.abs().mean(dim=0) > t),
            "You take the columns that are large on average. One token with a large number is enough to spoil that "
            "token's scale.",
        ),
        Mistake(
            "whole tokens",
            whole_tokens,
            "You take out tokens, the rows of x. In real models outliers keep to the same few features in almost every "
            "token: few columns hold them all, but hardly a token is free of them.",
        ),
        Mistake(
            "single numbers",
            single_numbers,
            "You take out single numbers, and leave the rest of their column in 8 bits. Fast matrix products can leave "
            "out a column, not a number here and there: take the whole column, in x and in the weight.",
        ),
        Mistake(
            "scales with the outliers",
            split_with(rounded=lambda x, w, wide: scales_of_all(x, w, wide, True, False)),
            "You find the scales of x with the outliers still in it, and take them out afterwards. The harm is done by "
            "then: the steps are as coarse as without a split. First apart, then round.",
        ),
        Mistake(
            "weight scales of all columns",
            split_with(rounded=lambda x, w, wide: scales_of_all(x, w, wide, False, True)),
            "The scales of the weight are those of all its columns. Libraries do so, because weights are rounded once "
            "and outliers differ from text to text; here both matrices are rounded without the outlier columns.",
        ),
        Mistake(
            "one scale for all tokens",
            split_with(rounded=one_step_for_all),
            "All tokens of x share a scale. Each has its own: it can be multiplied in after the sum, so it costs "
            "nothing.",
        ),
        Mistake(
            "counted twice",
            split_with(rounded=lambda x, w, wide: (_whole(x), _whole(w))),
            "The outlier columns are in both parts: multiplied as floats, and once more in the rounded product. Set "
            "them to 0 there, or leave them out.",
        ),
        Mistake(
            "outliers left out",
            split_with(floats=lambda x, w, wide: 0.0),
            "The outlier columns are in neither part: their product is missing. They are the features on which the "
            "model leans most.",
        ),
        Mistake(
            "float32 returned",
            split_with(keep_dtype=False),
            "For x in float16 you return float32. Add the parts in float32, then cast the sum to x's dtype.",
        ),
    ),
)
