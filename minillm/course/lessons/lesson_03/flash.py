r"""Flash attention, forward: the online softmax over tiles, and no table of all pairs."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.course.ledger import LargestTensor
from minillm.layers import masks, tiles
from minillm.layers.tiles import PositionTable

Table = Tensor | PositionTable | None
SMALL = "no table of all queries and keys"


def tiled_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    r"""Sequences that no tile length divides, longer than heads are wide, so that a whole table would stand out."""
    b, h = 1, 2
    n, m = draw.sizes(2, 7, 9)

    def inputs(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[Tensor]:
        q, k = (draw.normal(b, h, t, 4, dtype=dtype, scale=scale) for t in (n, m))
        return [q, k, draw.normal(b, h, m, 5, dtype=dtype)]

    blind = draw.booleans(n, m, share=0.5)
    blind[0] = False  # a query that may attend nowhere
    positions = (torch.arange(m) - torch.tensor([[0], [2]])).clamp(min=-1)  # the second row is padded
    yield (draw.normal(5, 2), draw.normal(7, 2), draw.normal(7, 3)), {"tile_len": 2}
    yield tuple(inputs()), {"tile_len": 4}
    yield tuple(inputs(torch.float64)), {"mask": blind, "tile_len": 4}
    yield tuple(inputs()), {"attn_bias": 2 * draw.normal(h, n, m), "scale": 0.3, "tile_len": 4}
    yield tuple(inputs(scale=12.0)), {"tile_len": 4}
    yield tuple(inputs(torch.bfloat16)), {"tile_len": 4}
    q, k, v = inputs()
    causal = PositionTable(masks.causal_mask, positions, positions)
    yield (draw.normal(2, h, m, 4), k.repeat(2, 1, 1, 1), v.repeat(2, 1, 1, 1)), {"mask": causal, "tile_len": 5}
    yield tuple(inputs()), {"tile_len": 64}


def row_by_row_in_double(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Table = None,
    attn_bias: Table = None,
    scale: float | None = None,
    tile_len: int = 64,
) -> dict[str, Any]:
    shape = (*q.shape[:-1], k.shape[-2])
    if isinstance(mask, PositionTable):
        mask = mask.rule(mask.q_positions, mask.kv_positions)[:, None]
    allowed = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    bias = torch.zeros(shape) if attn_bias is None else attn_bias.expand(shape)
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float64)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    for row in product(*map(range, shape[:-1])):
        seen = allowed[row].nonzero()[:, 0]
        scores = (k[row[:-1]][seen].double() * q[row].double()).sum(-1) * factor + bias[row][seen].double()
        if len(seen):
            out[row], lse[row] = scores.softmax(0) @ v[row[:-1]][seen].double(), scores.logsumexp(0)
    wide = torch.promote_types(q.dtype, torch.float32)
    return {"result": (out.to(q.dtype), lse.to(wide)), SMALL: True}


def watched(function: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, **options: Any) -> dict[str, Any]:
    r"""Call the function and see whether it makes a tensor as large as the table of all pairs."""
    with LargestTensor() as largest:
        result = function(q, k, v, **options)
    table = q.shape[:-1].numel() * k.shape[-2]
    return {"result": result, SMALL: largest.numbers < table or options["tile_len"] >= k.shape[-2]}


def by_strips(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Table = None,
    attn_bias: Table = None,
    scale: float | None = None,
    tile_len: int = 64,
) -> tuple[Tensor, Tensor]:
    r"""All queries at once against a strip of keys; the average is kept divided, the weight behind it as an lse."""
    everyone = slice(0, q.shape[-2])
    out, lse = 0.0, torch.full(q.shape[:-1], -math.inf)
    for columns in tiles.tile_slices(k.shape[-2], tile_len):
        scores = tiles.tile_scores(q, k, everyone, columns, mask, attn_bias, scale)
        part = torch.logsumexp(scores, -1)
        new_lse = torch.logaddexp(lse, part)
        found = torch.softmax(scores, -1).nan_to_num(0.0) @ v[..., columns, :].to(scores.dtype)
        old_share, new_share = ((x - new_lse).exp().nan_to_num(0.0)[..., None] for x in (lse, part))
        out, lse = out * old_share + found * new_share, new_lse
    return out.to(q.dtype), lse


def tiled_by(
    step: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
    finish: Callable[[Tensor, Tensor], Tensor] = lambda out, total: out / total.masked_fill(total == 0, 1.0),
    log_sum: Callable[[Tensor, Tensor], Tensor] = lambda top, total: top + total.log(),
    keys: Callable[[slice, list[slice], int], list[slice]] = lambda rows, columns, tile_len: columns,
    cast: bool = True,
) -> Callable[..., tuple[Tensor, Tensor]]:
    r"""Flash attention with another step, another end, or other tiles."""

    def wrong(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Table = None,
        attn_bias: Table = None,
        scale: float | None = None,
        tile_len: int = 64,
    ) -> tuple[Tensor, Tensor]:
        outs, lses = [], []
        for rows in tiles.tile_slices(q.shape[-2], tile_len):
            top = torch.full_like(q[..., rows, :1], -math.inf, dtype=torch.promote_types(q.dtype, torch.float32))
            total, out = torch.zeros_like(top), top.new_zeros(*top.shape[:-1], v.shape[-1])
            for columns in keys(rows, tiles.tile_slices(k.shape[-2], tile_len), tile_len):
                scores = tiles.tile_scores(q, k, rows, columns, mask, attn_bias, scale)
                top, total, out = (step or good_step)(scores, v[..., columns, :].to(scores.dtype), top, total, out)
            outs.append(finish(out, total).to(q.dtype) if cast else finish(out, total))
            lses.append(log_sum(top, total)[..., 0])
        return torch.cat(outs, -2), torch.cat(lses, -1)

    return wrong


def good_step(scores: Tensor, v: Tensor, top: Tensor, total: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    new = scores.amax(-1, keepdim=True).maximum(top)
    safe = new.masked_fill(new == -math.inf, 0.0)
    exp, factor = (scores - safe).exp(), (top - safe).exp()
    return new, total * factor + exp.sum(-1, keepdim=True), out * factor + exp @ v


def step_without_max(
    scores: Tensor, v: Tensor, top: Tensor, total: Tensor, out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(top), total + scores.exp().sum(-1, keepdim=True), out + scores.exp() @ v


def step_without_rescaling(
    scores: Tensor, v: Tensor, top: Tensor, total: Tensor, out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    new, new_total, _ = good_step(scores, v, top, total, out)
    return new, new_total, out + (scores - new.masked_fill(new == -math.inf, 0.0)).exp() @ v


def step_with_its_own_softmax(
    scores: Tensor, v: Tensor, top: Tensor, total: Tensor, out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    new, new_total, _ = good_step(scores, v, top, total, out)
    return new, new_total, out + scores.softmax(-1).nan_to_num(0.0) @ v


def whole_table(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Table = None,
    attn_bias: Table = None,
    scale: float | None = None,
    tile_len: int = 64,
) -> tuple[Tensor, Tensor]:
    scores = tiles.tile_scores(q, k, slice(0, q.shape[-2]), slice(0, k.shape[-2]), mask, attn_bias, scale)
    return (scores.softmax(-1).nan_to_num(0.0) @ v.to(scores.dtype)).to(q.dtype), scores.logsumexp(-1)


def full_tiles(rows: slice, columns: list[slice], tile_len: int) -> list[slice]:
    return [part for part in columns if part.stop - part.start == tile_len] or columns


def tiles_below_the_diagonal(rows: slice, columns: list[slice], tile_len: int) -> list[slice]:
    return [part for part in columns if part.start <= rows.start]


FLASH_FORWARD = Exercise(
    id="layers.flash.flash_forward",
    lesson="03",
    title="Flash attention, forward",
    task="Attention over tiles. `tiles.tiles_of(q_len, kv_len, tile_len, mask)` gives each slice of queries with the "
    "slices of keys that are worth a look; `tiles.tile_scores(q, k, rows, columns, mask, attn_bias, scale)` gives the "
    "scores of one tile, -inf where the mask says no; your `online_softmax` takes a tile in. For each slice of queries "
    "begin with -inf, 0 and 0, go through its tiles, and divide at the end. Return the outputs, dtype of q, and the "
    "log-sum-exp of each query's scores. A query that may attend nowhere gets zeros, and -inf.",
    difficulty=3,
    minutes=20,
    points=6,
    seed=32,
    hints=(
        "Two loops, queries outside and keys inside: so a slice of queries needs one running maximum, sum and output, "
        "and is finished when its inner loop ends. `torch.cat` joins the finished slices.",
        "Running maximum and sum have shape (..., rows, 1), the output (..., rows, Dv). They are float32 even if q is "
        "bfloat16, as `tile_scores` is; `torch.promote_types(q.dtype, torch.float32)` names that dtype.",
        "log sum exp(s) = max + log sum exp(s - max): you hold both at the end of the inner loop.",
        "Where the running sum is 0, nothing has been seen. Divide by 1 there, and the output stays 0.",
    ),
    cases=tiled_cases,
    oracle=row_by_row_in_double,
    other_style=by_strips,
    probe=watched,
    tolerance=Tolerance(
        3e-4, 1e-4, "scores of some hundreds are rounded at the fifth digit behind the point, and exp passes it on"
    ),
    mistakes=(
        Mistake(
            "flash attention without the running max",
            tiled_by(step_without_max, log_sum=lambda top, total: total.log()),
            "There is no running max: you sum exp(score) itself. With small scores nobody notices. With a score above "
            "88 the sum is infinite in float32, and the output inf / inf. Shift each tile by the largest score so far.",
        ),
        Mistake(
            "old output not rescaled",
            tiled_by(step_without_rescaling),
            "The sum follows the running maximum, the output does not: what earlier tiles have added is still at their "
            "scale. Right only if the first tile holds the largest score. Multiply the output by the same factor.",
        ),
        Mistake(
            "a softmax for every tile",
            tiled_by(step_with_its_own_softmax, finish=lambda out, total: out),
            "You take a softmax in every tile and add the results. Each tile then has weight 1, whatever its scores: a "
            "row of weights sums to the number of tiles. The exponentials must be summed over *all* tiles first.",
        ),
        Mistake(
            "never divided",
            tiled_by(finish=lambda out, total: out),
            "The output is the sum of exp(score - max) * v, and nobody has divided it by the sum of the exponentials. "
            "Once, after the last tile of keys, is enough.",
        ),
        Mistake(
            "0/0 where nothing is seen",
            tiled_by(finish=lambda out, total: out / total),
            "A query that may see nothing has a sum of 0, and 0/0 is NaN. Zeros are wanted: divide by 1 where the sum "
            "is 0.",
        ),
        Mistake(
            "last tile left out",
            tiled_by(keys=full_tiles),
            "The last keys are missing: when tile_len does not divide their number, the last tile is shorter, and it "
            "counts all the same. `tiles_of` gives it; do not compute the number of tiles by `//`.",
        ),
        Mistake(
            "every mask taken for a causal one",
            tiled_by(keys=tiles_below_the_diagonal),
            "You skip every tile above the diagonal. That is right under a causal mask only; here a query may see all "
            "keys unless the mask says otherwise. `tiles_of` looks into the mask and skips what can be skipped.",
        ),
        Mistake(
            "log-sum-exp without the maximum",
            tiled_by(log_sum=lambda top, total: total.log()),
            "The output is right; the log-sum-exp is not. Your sum is relative to the running max: add that to the "
            "logarithm of the sum. The backward pass will take the weights from it.",
        ),
        Mistake(
            "the sum in place of its logarithm",
            tiled_by(log_sum=lambda top, total: total),
            "The second result is the running sum. It means something only together with the running max; one number "
            "that holds both is max + log(sum).",
        ),
        Mistake(
            "left in float32",
            tiled_by(cast=False),
            "The sums are rightly kept in float32, but the output must go back to the dtype of q: a bfloat16 model "
            "would otherwise carry on in float32.",
        ),
        Mistake(
            "the whole table",
            whole_table,
            "The numbers are right, but you have made the whole table of Tq x Tk scores, and that is what flash "
            "attention is there to avoid. Work on one tile at a time, and keep only the running maximum, sum and "
            "output.",
        ),
    ),
)
