r"""Joining what the same queries found among two sets of keys."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Found = tuple[Tensor, Tensor]


def found_among(scores: Tensor, v: Tensor) -> Found:
    r"""Attention over one set of keys, and the log-sum-exp of its scores."""
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v, torch.logsumexp(scores, -1)


def two_sides(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, h, t, n, m, d = draw.sizes(6, 2, 7)

    def sides(*lead: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, ahead: float = 0.0) -> list[Tensor]:
        scores = [draw.normal(*lead, t, keys, dtype=dtype, scale=scale) for keys in (n, m)]
        values = [draw.normal(*lead, keys, d, dtype=dtype) for keys in (n, m)]
        first, second = found_among(scores[0] + ahead, values[0]), found_among(scores[1], values[1])
        return [*first, *second]

    yield tuple(sides()), {}
    yield tuple(sides(b, h)), {}
    yield tuple(sides(b, h, dtype=torch.float64, scale=3.0)), {}
    yield tuple(sides(h, ahead=2.0)), {}
    yield tuple(x + 1000.0 if i % 2 else x for i, x in enumerate(sides(h))), {}  # large scores: log-sum-exp near 1000
    out_a, lse_a, out_b, lse_b = sides(b, h)
    lse_a[..., :2], lse_b[..., 1] = -math.inf, -math.inf  # row 0: one side has seen nothing; row 1: neither has
    out_a[..., :2, :], out_b[..., 1, :] = 0.0, 0.0
    yield (out_a, lse_a, out_b, lse_b), {}


def merged_in_double(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Found:
    r"""The two averages weighed by what stands behind them, number by number."""
    out, lse = out_a.double().clone(), lse_a.double().clone()
    for row in torch.cartesian_prod(*map(torch.arange, lse.shape)).reshape(-1, lse.dim()).tolist():
        row = tuple(row)
        a, b = float(lse_a[row]), float(lse_b[row])
        if max(a, b) == -math.inf:
            continue
        behind_a, behind_b = math.exp(a - max(a, b)), math.exp(b - max(a, b))
        out[row] = (behind_a * out_a[row].double() + behind_b * out_b[row].double()) / (behind_a + behind_b)
        lse[row] = max(a, b) + math.log(behind_a + behind_b)
    return out.to(out_a.dtype), lse.to(lse_a.dtype)


def merged_by_sigmoid(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Found:
    r"""With two sides a softmax is a sigmoid of the difference."""
    share_b = torch.sigmoid((lse_b - lse_a).nan_to_num(0.0)).unsqueeze(-1)
    return torch.lerp(out_a, out_b, share_b), torch.logaddexp(lse_a, lse_b)


def merged_by(
    shares: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    joint: Callable[[Tensor, Tensor], Tensor] = torch.logaddexp,
    swap: bool = False,
) -> Callable[..., Found]:
    r"""A merge with other shares, or another log-sum-exp."""

    def good_shares(lse_a: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.logaddexp(lse_a, lse_b)
        return (lse_a - both).exp().nan_to_num(0.0), (lse_b - both).exp().nan_to_num(0.0)

    def wrong(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Found:
        share_a, share_b = (shares or good_shares)(lse_a, lse_b)
        if swap:
            share_a, share_b = share_b, share_a
        return out_a * share_a[..., None] + out_b * share_b[..., None], joint(lse_a, lse_b)

    return wrong


def shares_without_shift(lse_a: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    total = (lse_a.exp() + lse_b.exp()).clamp(min=1e-30)
    return lse_a.exp() / total, lse_b.exp() / total


def shares_by_logarithm(lse_a: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    return lse_a / (lse_a + lse_b), lse_b / (lse_a + lse_b)


def shares_with_nan(lse_a: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.logaddexp(lse_a, lse_b)
    return (lse_a - both).exp(), (lse_b - both).exp()


MERGE_ATTENTION = Exercise(
    id="layers.blockwise.merge_attention",
    lesson="03",
    title="Merge what two blocks found",
    task="The same queries have looked at two sets of keys. Each look gave an average of values, `out`, and the "
    "log-sum-exp of its scores, `lse`: exp(lse) is the sum that the average was divided by. Give the average over both "
    "sets of keys, and its log-sum-exp. Scores may be large, so exp(lse) may not fit into float32. A side that has "
    "seen no key has lse -inf; if neither has, the result is zeros and -inf.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=33,
    hints=(
        "Undo the division: out_a * exp(lse_a) is the sum of exp(score) * v over the first keys. Add both sums, and "
        "divide by the sum of all exponentials.",
        "Only the difference of the two lse decides who counts how much. Subtract the larger of the two from both "
        "before `exp`, as in softmax.",
        "`lse` has no feature dimension: `[..., None]` lets it meet `out`.",
        "Where both are -inf, the larger is -inf too: put 0 in its place before you subtract it, and 1 in place of a "
        "total of 0 before you divide by it or take its logarithm.",
    ),
    cases=two_sides,
    oracle=merged_in_double,
    other_style=merged_by_sigmoid,
    tolerance=Tolerance(2e-4, 5e-6, "near 1000 a float32 has 4 digits behind the point, and exp passes them on"),
    mistakes=(
        Mistake(
            "plain mean",
            merged_by(lambda a, b: (torch.full_like(a, 0.5), torch.full_like(b, 0.5))),
            "You take the mean of both outputs. They do not count alike: the side with the larger sum of exponentials "
            "has more to say. exp(lse) is that sum.",
        ),
        Mistake(
            "added",
            merged_by(lambda a, b: (torch.ones_like(a), torch.ones_like(b))),
            "You add both outputs. Each of them is an average already, with weights that sum to 1; their sum has "
            "weights that sum to 2.",
        ),
        Mistake(
            "shares in proportion to the logarithm",
            merged_by(shares_by_logarithm),
            "You weigh by lse, a logarithm. It may be negative, and a difference of 1 in it means a factor of 2.7: "
            "weigh by exp(lse).",
        ),
        Mistake(
            "shares swapped",
            merged_by(swap=True),
            "Each side gets the other side's share: the block that found little counts most.",
        ),
        Mistake(
            "no shift before exp",
            merged_by(shares_without_shift),
            "You take exp(lse) as it is. Above 88 that is infinite in float32, and inf / inf is NaN. Subtract the "
            "larger of both first: it cancels in the shares.",
        ),
        Mistake(
            "the larger in place of the joint log-sum-exp",
            merged_by(joint=torch.maximum),
            "The output is right, but the log-sum-exp is that of one side only. Merge a third block to this, and it "
            "counts too much. Both sums together: larger + log(share_a + share_b).",
        ),
        Mistake(
            "logarithms added",
            merged_by(joint=torch.add),
            "You add the two lse. A sum of logarithms is the logarithm of the *product*; here the sums of "
            "exponentials are added, and then comes the logarithm.",
        ),
        Mistake(
            "NaN where neither side has seen a key",
            merged_by(shares_with_nan),
            "Where both lse are -inf you compute -inf - (-inf), which is NaN. Nothing has been seen there: the output "
            "is zeros.",
        ),
    ),
)
