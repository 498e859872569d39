r"""ALiBi's bias: a penalty that grows with distance."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

ONE_PRODUCT = Tolerance(1e-6, 1e-6, "one product of a whole number and a float")


def alibi_bias_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    h, t, n, b = draw.sizes(4, 2, 6)
    start = draw.size(5, 40)
    new = start + torch.arange(n)
    texts = torch.arange(t) + draw.integers(0, 9, b, 1)

    def slopes(heads: int) -> Tensor:
        return 0.1 + torch.rand(heads, generator=draw.generator)

    yield (torch.tensor([2, 3]), torch.arange(4), torch.tensor([0.5, 0.25])), {}
    yield (torch.arange(t), torch.arange(t), slopes(h)), {}
    yield (new, torch.arange(start + n), slopes(h)), {}  # new tokens behind cached ones
    yield (torch.tensor([start]), torch.arange(start + 1), slopes(1)), {}
    yield (texts, texts, slopes(h)), {}
    yield (texts, texts, slopes(b).double()), {}  # as many heads as texts


def alibi_by_loops(q_positions: Tensor, kv_positions: Tensor, slopes: Tensor) -> Tensor:
    lead = torch.broadcast_shapes(q_positions.shape[:-1], kv_positions.shape[:-1])
    q, k = q_positions.expand(*lead, -1), kv_positions.expand(*lead, -1)
    out = torch.zeros(*lead, len(slopes), q.shape[-1], k.shape[-1], dtype=slopes.dtype)
    for *row, head, i, j in product(*map(range, out.shape)):
        out[(*row, head, i, j)] = float(slopes[head]) * (int(k[(*row, j)]) - int(q[(*row, i)]))
    return out


def alibi_other_style(q_positions: Tensor, kv_positions: Tensor, slopes: Tensor) -> Tensor:
    ahead = kv_positions.unsqueeze(-2) - q_positions.unsqueeze(-1)
    return torch.einsum("h,...qk->...hqk", slopes, ahead.to(slopes.dtype))


def distances(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    return (q_positions[..., :, None] - kv_positions[..., None, :])[..., None, :, :]


def alibi_by_index(q_positions: Tensor, kv_positions: Tensor, slopes: Tensor) -> Tensor:
    rows = torch.arange(q_positions.shape[-1]).expand(q_positions.shape)
    return alibi_by_loops(rows, torch.arange(kv_positions.shape[-1]).expand(kv_positions.shape), slopes)


def alibi_with_mask(q_positions: Tensor, kv_positions: Tensor, slopes: Tensor) -> Tensor:
    future = distances(q_positions, kv_positions) < 0
    return alibi_by_loops(q_positions, kv_positions, slopes).masked_fill(future, float("-inf"))


def alibi_of_keys(q_positions: Tensor, kv_positions: Tensor, slopes: Tensor) -> Tensor:
    return alibi_by_loops(torch.zeros_like(q_positions), kv_positions, slopes)


ALIBI_BIAS = Exercise(
    id="layers.alibi.alibi_bias",
    lesson="04",
    title="A penalty for distance",
    task="For every head, query and key: minus the head's slope, times the distance (the query's position minus the "
    "key's). The heads stand in front of queries and keys, behind a batch if there is one: (..., H, Tq, Tk). Your "
    "`broadcast_pairwise` of lesson 00 gives the distances. The future is not your business here: a mask hides it.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=44,
    hints=(
        "`pairwise.broadcast_pairwise(q_positions, kv_positions)` is (..., Tq, Tk). Where do the heads go?",
        "Slopes of shape (H, 1, 1) meet distances of shape (..., 1, Tq, Tk).",
    ),
    cases=alibi_bias_cases,
    oracle=alibi_by_loops,
    other_style=alibi_other_style,
    tolerance=ONE_PRODUCT,
    mistakes=(
        Mistake(
            "distance rewarded",
            lambda q_positions, kv_positions, slopes: -alibi_by_loops(q_positions, kv_positions, slopes),
            "The sign is turned round: far keys get *more* score in yours. A key in the past must have a negative "
            "bias, 0 only at the query itself.",
        ),
        Mistake(
            "by index",
            alibi_by_index,
            "You number queries and keys from 0 in this call. With cached keys the query stands at position 12, say, "
            "not at 0: take the distances from the positions that are given.",
        ),
        Mistake(
            "heads last",
            lambda q_positions, kv_positions, slopes: alibi_by_loops(q_positions, kv_positions, slopes).movedim(-3, -1),
            "The heads stand at the end, (..., Tq, Tk, H). The bias is added to scores of shape (B, H, Tq, Tk): the "
            "heads come before queries and keys.",
        ),
        Mistake(
            "heads in the place of the batch",
            lambda q_positions, kv_positions, slopes: (
                -slopes[:, None, None] * distances(q_positions, kv_positions)[..., 0, :, :]
            ),
            "The slopes meet the first axis of the distances, and with a batch that is not the heads' place: text b "
            "would get slope b. Give the distances an axis of length 1 for the heads, third from the end.",
        ),
        Mistake(
            "one slope for all heads",
            lambda q_positions, kv_positions, slopes: alibi_by_loops(
                q_positions, kv_positions, slopes.mean().expand(slopes.shape)
            ),
            "All heads get the same slope. Each has its own: some look at the last few words, others far back.",
        ),
        Mistake(
            "slopes ignored",
            lambda q_positions, kv_positions, slopes: alibi_by_loops(
                q_positions, kv_positions, torch.ones_like(slopes)
            ),
            "The distances are there, but the slopes are not multiplied in: every head would forget as fast as the "
            "steepest one.",
        ),
        Mistake(
            "absolute distance",
            lambda q_positions, kv_positions, slopes: -alibi_by_loops(q_positions, kv_positions, slopes).abs(),
            "You take the absolute value of the distance. Under a causal mask nobody will notice, but the formula has "
            "none: the bias of a key in the future is positive, and hiding it is the mask's work.",
        ),
        Mistake(
            "future cut to zero",
            lambda q_positions, kv_positions, slopes: alibi_by_loops(q_positions, kv_positions, slopes).clamp(max=0),
            "You cut the bias off at 0. Under a causal mask nobody will notice, but the formula is linear on both "
            "sides; hiding the future is the mask's work.",
        ),
        Mistake(
            "mask mixed in",
            alibi_with_mask,
            "You put -inf where the key is in the future. What may be seen is said by `mask`, a bool; this function "
            "gives the bias alone, so that it also serves where another mask is used.",
        ),
        Mistake(
            "only the key's position",
            alibi_of_keys,
            "You add slope times the *key's* position, without the query's. After the softmax that is the same, for a "
            "number added to a whole row cancels; but the numbers grow with the text, and the bias asked for is 0 at "
            "the query itself.",
        ),
        Mistake(
            "slope to the power of distance",
            lambda q_positions, kv_positions, slopes: -(
                slopes[:, None, None] ** distances(q_positions, kv_positions)
            ).to(slopes.dtype),
            "You raise the slope to the power of the distance. The slopes themselves are powers of two; the penalty is "
            "linear: slope times distance.",
        ),
    ),
)
