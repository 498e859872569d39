r"""One step of the online softmax."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Running = tuple[Tensor, Tensor, Tensor]


def nothing_seen(scores: Tensor, v: Tensor) -> Running:
    r"""What to begin with: -inf, 0 and 0."""
    first = scores[..., :1]
    return torch.full_like(first, -math.inf), torch.zeros_like(first), first.new_zeros(*first.shape[:-1], v.shape[-1])


def seen_before(scores: Tensor, v: Tensor) -> Running:
    r"""What has been summed over keys that came earlier; a row of -inf has seen nothing."""
    largest = scores.max(-1, keepdim=True).values
    exp = torch.exp(scores - largest).nan_to_num(0.0)
    return largest, exp.sum(-1, keepdim=True), exp @ v


def online_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, h, t, n, d = draw.sizes(5, 2, 6)
    scores, v = draw.normal(1, 3), draw.normal(3, 2)
    yield (scores, v, *nothing_seen(scores, v)), {}
    for ahead in (4.0, -4.0):  # the new tile holds the largest score so far, or does not
        scores, v = draw.normal(t, n) + ahead, draw.normal(n, d)
        yield (scores, v, *seen_before(draw.normal(t, h), draw.normal(h, d))), {}
    lead = (b, h)
    for dtype, scale in ((torch.float64, 1.0), (torch.float32, 3000.0)):
        scores, v = draw.normal(*lead, t, n, dtype=dtype, scale=scale), draw.normal(*lead, n, d, dtype=dtype)
        before = draw.normal(*lead, t, n, dtype=dtype, scale=scale), draw.normal(*lead, n, d, dtype=dtype)
        yield (scores, v, *seen_before(*before)), {}
    # Blocked keys: the first row sees nothing in this tile; in the second case nothing in any tile.
    for blind_before in (False, True):
        scores = draw.normal(*lead, t, n).masked_fill(draw.booleans(t, n, share=0.3), -math.inf)
        scores[..., 0, :] = -math.inf
        before = draw.normal(*lead, t, n)
        if blind_before:
            before[..., 0, :] = -math.inf
        v = draw.normal(*lead, n, d)
        yield (scores, v, *seen_before(before, draw.normal(*lead, n, d))), {}


def key_by_key(scores: Tensor, v: Tensor, running_max: Tensor, running_sum: Tensor, running_out: Tensor) -> Running:
    r"""Every exponential by itself, in double precision."""
    news = [x.double().clone() for x in (running_max, running_sum, running_out)]
    for row in product(*map(range, scores.shape[:-1])):
        old, keys = float(running_max[row]), [float(x) for x in scores[row]]
        top = max([old, *keys])
        total = float(running_sum[row]) * (math.exp(old - top) if old > -math.inf else 0.0)
        out = running_out[row].double() * (math.exp(old - top) if old > -math.inf else 0.0)
        for j, score in enumerate(keys):
            if score > -math.inf:
                total += math.exp(score - top)
                out = out + math.exp(score - top) * v[(*row[:-1], j)].double()
        news[0][row], news[1][row], news[2][row] = top, total, out
    return news[0].to(scores.dtype), news[1].to(scores.dtype), news[2].to(scores.dtype)


def old_as_one_more_key(
    scores: Tensor, v: Tensor, running_max: Tensor, running_sum: Tensor, running_out: Tensor
) -> Running:
    joined = torch.cat([running_max, scores], dim=-1)
    top = torch.amax(joined, -1, keepdim=True)
    shares = torch.where(joined == -math.inf, torch.zeros_like(joined), torch.exp(joined - top))
    old, new = shares[..., :1], shares[..., 1:]
    return top, old * running_sum + torch.sum(new, -1, keepdim=True), torch.matmul(new, v) + old * running_out


def stepped_by(
    top: Callable[[Tensor, Tensor], Tensor] = lambda scores, old: scores.amax(-1, keepdim=True).maximum(old),
    shift: Callable[[Tensor, Tensor], Tensor] = lambda scores, new: new,
    rescale: Callable[[Tensor, Tensor], Tensor] = lambda old, new: (old - new).exp(),
    rescale_sum: bool = True,
    rescale_out: bool = True,
    careful: bool = True,
) -> Callable[..., Running]:
    r"""A step with another largest score, another shift of the new scores, or another factor on what was before."""

    def wrong(scores: Tensor, v: Tensor, running_max: Tensor, running_sum: Tensor, running_out: Tensor) -> Running:
        new = top(scores, running_max)
        safe = new.masked_fill(new == -math.inf, 0.0) if careful else new
        exp = (scores - shift(scores, safe)).exp()
        factor = rescale(running_max, safe)
        sums = running_sum * factor if rescale_sum else running_sum
        outs = running_out * factor if rescale_out else running_out
        return new, sums + exp.sum(-1, keepdim=True), outs + exp @ v

    return wrong


def averaged_each_time(
    scores: Tensor, v: Tensor, running_max: Tensor, running_sum: Tensor, running_out: Tensor
) -> Running:
    top, total, out = old_as_one_more_key(scores, v, running_max, running_sum, running_out)
    return top, total, out / total.masked_fill(total == 0, 1.0)


def own_largest(scores: Tensor, new: Tensor) -> Tensor:
    return scores.amax(-1, keepdim=True).masked_fill(scores.amax(-1, keepdim=True) == -math.inf, 0.0)


ONLINE_SOFTMAX = Exercise(
    id="layers.online_softmax.online_softmax",
    lesson="03",
    title="Softmax of a row that comes in pieces",
    task="You have seen some keys of a row, and hold three things: the largest score, the sum of "
    "exp(score - largest), and the sum of exp(score - largest) times the value. Now n more keys come. Give the same "
    "three things for all keys seen, old and new. The old scores are gone; you do not need them. A score of -inf is a "
    "blocked key, and a row may have seen nothing but blocked keys.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=31,
    hints=(
        "Do it with numbers: 2 and 1 have been seen, so you hold 2 and 1 + exp(-1). Now 3 comes. What must the sum be, "
        "and by which factor does its old part change?",
        "exp(s - new) = exp(s - old) * exp(old - new). The last factor is the same for all old keys, so it can be "
        "taken once, on the sum; and once, on the weighted sum of values.",
        "The largest score so far is `running_max.maximum(...)` of the new scores' largest, over the last dimension, "
        "with `keepdim=True`.",
        "If a row has seen nothing, the largest score is -inf, and -inf - (-inf) is NaN. Subtract 0 in such a row: "
        "exp(-inf - 0) is 0, which is right.",
    ),
    cases=online_cases,
    oracle=key_by_key,
    other_style=old_as_one_more_key,
    tolerance=Tolerance(2e-5, 2e-6, "exponentials and sums of a few products in another order"),
    mistakes=(
        Mistake(
            "no running max",
            stepped_by(shift=lambda scores, new: torch.zeros_like(new), rescale=lambda old, new: torch.ones_like(new)),
            "You sum exp(score) itself. That is the same function on paper, but exp(89) no longer fits into float32, "
            "and trained models have such scores. Subtract the largest score so far from every score.",
        ),
        Mistake(
            "largest score of this tile only",
            stepped_by(top=lambda scores, old: scores.amax(-1, keepdim=True)),
            "Your new maximum knows the new scores only. If an old score was larger, what you hold of it is multiplied "
            "by exp(old - new), which is then larger than 1, and may overflow. Take the larger of both.",
        ),
        Mistake(
            "nothing rescaled",
            stepped_by(rescale_sum=False, rescale_out=False),
            "What was summed before is relative to the old maximum, what you add is relative to the new one: two "
            "units in one sum. Multiply the old sum and the old output by exp(old max - new max).",
        ),
        Mistake(
            "old output not rescaled",
            stepped_by(rescale_out=False),
            "The sum is right, but `running_out` still holds the old values at the old scale. It needs the same factor "
            "as the sum, or early keys count too much.",
        ),
        Mistake(
            "old sum not rescaled",
            stepped_by(rescale_sum=False),
            "The output is right, but `running_sum` still holds the old keys at the old scale. Divide by it at the "
            "end, and the weights do not sum to 1.",
        ),
        Mistake(
            "rescaled the wrong way round",
            stepped_by(rescale=lambda old, new: (new - old).exp().nan_to_num(0.0, posinf=0.0)),
            "Your factor is exp(new - old). A larger maximum makes all old exponentials *smaller*: exp(s - new) = "
            "exp(s - old) * exp(old - new). It should never exceed 1.",
        ),
        Mistake(
            "new scores relative to their own maximum",
            stepped_by(shift=own_largest),
            "The new scores are shifted by the largest of their own tile, the old ones by the largest of all. When an "
            "old score was larger, the new keys count too much. All exponentials need one and the same shift.",
        ),
        Mistake(
            "one maximum for all rows",
            stepped_by(top=lambda scores, old: scores.max().maximum(old.max()).expand_as(old)),
            "You take one maximum for all queries. Each row has its own softmax: in a row whose scores lie far below "
            "that maximum, every exponential becomes 0, and the row ends as 0/0.",
        ),
        Mistake(
            "averaged at every step",
            averaged_each_time,
            "You divide the output by the sum already. Then the next step cannot add to it as it is: `running_out` is "
            "the undivided sum. Dividing once, after the last key, is enough.",
        ),
        Mistake(
            "NaN where nothing has been seen",
            stepped_by(careful=False),
            "A row that has seen only blocked keys gets NaN: its largest score is -inf, and -inf - (-inf) is not a "
            "number. Put a finite number, 0 say, in place of that -inf before you subtract it.",
        ),
    ),
)
