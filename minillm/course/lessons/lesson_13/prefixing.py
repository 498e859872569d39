r"""More keys and values in front of a layer's own."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Cached = tuple[Tensor, Tensor, Tensor]


def prefix_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[[[1.0], [2.0]]]]), torch.tensor([[[[3.0], [4.0]]]]), torch.tensor([[[8.0]]]),
           torch.tensor([[[9.0]]]), torch.tensor([0, 1])), {}
    b, heads, n_tokens, width, length = draw.sizes(5, 2, 8)
    k, v, prefix_k, prefix_v = keys_and_values(draw, b, heads, n_tokens, width, length)
    yield (k, v, prefix_k, prefix_v, torch.arange(n_tokens)), {}
    n_cached = draw.size(3, 9)  # a chunk behind cached tokens
    yield (k, v, prefix_k, prefix_v, torch.arange(n_tokens) + n_cached), {}
    n_padding = torch.arange(b)[:, None].clamp(max=n_tokens - 1)
    padded = (torch.arange(n_tokens) - n_padding).clamp(min=-1).expand(b, n_tokens).clone()
    yield (k, v, prefix_k, prefix_v, padded), {}
    k, v, prefix_k, prefix_v = keys_and_values(draw, b, heads, length, width, length)
    yield (k, v, prefix_k, prefix_v, torch.arange(length)), {}  # as many as the tokens
    yield (*keys_and_values(draw, 1, heads, n_tokens, width, 1), torch.arange(n_tokens)), {}
    side = draw.size(3, 5)
    k, v, prefix_k, prefix_v = keys_and_values(draw, side, side, side, side, side)
    yield (k.bfloat16(), v.bfloat16(), prefix_k, prefix_v, torch.arange(side).expand(side, side).clone()), {}


def keys_and_values(draw: Draw, b: int, heads: int, n_tokens: int, width: int, length: int) -> tuple[Tensor, ...]:
    shapes = [(b, heads, n_tokens, width)] * 2 + [(heads, length, width)] * 2
    return tuple(draw.normal(*shape) for shape in shapes)


def row_by_row(k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, kv_positions: Tensor) -> Cached:
    r"""Lists, text by text and head by head."""

    def joined(own: Tensor, prefix: Tensor) -> Tensor:
        rows = [[prefix[h].to(own.dtype).tolist() + text[h].tolist() for h in range(len(prefix))] for text in own]
        return torch.tensor(rows, dtype=own.dtype)

    lists = kv_positions.tolist() if kv_positions.dim() == 2 else [kv_positions.tolist()]
    positions = torch.tensor([[0] * prefix_k.shape[1] + row for row in lists], dtype=kv_positions.dtype)
    return joined(k, prefix_k), joined(v, prefix_v), positions if kv_positions.dim() == 2 else positions[0]


def for_the_batch(prefix: Tensor, own: Tensor, cast: bool = True) -> Tensor:
    r"""The prefix once for each text."""
    prefix = prefix.to(own.dtype) if cast else prefix
    return prefix[None].repeat(len(own), 1, 1, 1)


def new_positions(kv_positions: Tensor, length: int) -> Tensor:
    return torch.cat([torch.zeros_like(kv_positions[..., :1]).expand(*kv_positions.shape[:-1], length), kv_positions],
                     dim=-1)


def prefixed_with(
    join: Callable[[Tensor, Tensor], Tensor] = lambda prefix, own: torch.cat([for_the_batch(prefix, own), own], dim=2),
    place: Callable[[Tensor, int], Tensor] = new_positions,
    parts: Callable[..., tuple[Tensor, ...]] = lambda k, v, prefix_k, prefix_v: (prefix_k, k, prefix_v, v),
) -> Callable[..., Cached]:
    r"""A prefix that is put in, or placed, in another way."""

    def function(k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, kv_positions: Tensor) -> Cached:
        first_prefix, first, second_prefix, second = parts(k, v, prefix_k, prefix_v)
        return join(first_prefix, first), join(second_prefix, second), place(kv_positions, prefix_k.shape[1])

    return function


def written_into_slots(k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, kv_positions: Tensor) -> Cached:
    length, n_tokens = prefix_k.shape[1], k.shape[2]
    longer = [own.new_empty(*own.shape[:2], length + n_tokens, own.shape[3]) for own in (k, v)]
    for whole, prefix, own in zip(longer, (prefix_k, prefix_v), (k, v), strict=True):
        whole[:, :, :length], whole[:, :, length:] = prefix, own
    return longer[0], longer[1], torch.nn.functional.pad(kv_positions, (length, 0))


def keys_alone(k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, kv_positions: Tensor) -> Cached:
    longer, _, positions = prefixed_with()(k, v, prefix_k, prefix_v, kv_positions)
    return longer, v, positions


def counted_on(kv_positions: Tensor, length: int) -> Tensor:
    return new_positions(torch.where(kv_positions < 0, kv_positions, kv_positions + length), length)


def counted_through(kv_positions: Tensor, length: int) -> Tensor:
    first = torch.arange(length).expand(*kv_positions.shape[:-1], length)
    return torch.cat([first, torch.where(kv_positions < 0, kv_positions, kv_positions + length)], dim=-1)


def numbered_prefix(kv_positions: Tensor, length: int) -> Tensor:
    first = torch.arange(length).expand(*kv_positions.shape[:-1], length)
    return torch.cat([first, kv_positions], dim=-1)


PREFIX_KV = Exercise(
    id="tuning.prefixes.prefix_kv",
    lesson="13",
    title="Keys and values of a prefix",
    task="A layer has the keys `k` and values `v` of the tokens, (B, Hk, T, Dh), at `kv_positions`, (T,) or (B, T), "
    "where -1 means padding. Put those of a trained prefix, `prefix_k` and `prefix_v`, (Hk, l, Dh), in front of them, "
    "the same ones for every text of the batch, and return keys, values and positions of all l + T.\n\n"
    "The prefix stands at position 0, every place of it: the mask then shows it to each real token, whatever came "
    "before. The tokens keep their positions. Keys and values keep the dtype of `k` and `v`.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=135,
    hints=(
        "The prefix has no batch axis. Which shape must it have to be joined to k, and along which axis?",
        "`expand` repeats an axis of size 1 without copying; `torch.cat` takes the wider dtype of two, so cast first.",
        "A causal mask lets a query see keys at positions up to its own, but not those at -1. Which position is seen "
        "by the very first token too?",
    ),
    cases=prefix_cases,
    oracle=row_by_row,
    other_style=written_into_slots,
    tolerance=Tolerance(0.0, 0.0, "numbers are copied, never computed with"),
    mistakes=(
        Mistake(
            "added",
            prefixed_with(join=lambda prefix, own: own + for_the_batch(prefix, own), place=lambda p, length: p),
            "You add the prefix to the keys and values of the tokens. They are joined along the axis of tokens: a "
            "query finds l more places to look at, and what the tokens say stays as it was.",
        ),
        Mistake(
            "behind the tokens",
            prefixed_with(
                join=lambda prefix, own: torch.cat([own, for_the_batch(prefix, own)], dim=2),
                place=lambda p, length: torch.cat([p, p.new_zeros(*p.shape[:-1], length)], dim=-1),
            ),
            "The prefix stands behind the tokens. Attention would not mind, as long as the positions say so, but a "
            "cache that grows at its end does.",
        ),
        Mistake(
            "along the heads",
            prefixed_with(join=lambda prefix, own: torch.cat([for_the_batch(prefix, own), own], dim=1)),
            "You join along the axis of the heads: the layer would get more heads, not more places to look at. Tokens "
            "are axis 2.",
        ),
        Mistake(
            "along the features",
            prefixed_with(join=lambda prefix, own: torch.cat([for_the_batch(prefix, own), own], dim=3)),
            "You join along the features: every key gets wider. Tokens are axis 2, the one before the last.",
        ),
        Mistake(
            "keys alone",
            keys_alone,
            "Only the keys have got the prefix. A query that finds a key takes the value at the same place: without "
            "it, all values belong to the wrong keys.",
        ),
        Mistake(
            "keys twice",
            prefixed_with(parts=lambda k, v, prefix_k, prefix_v: (prefix_k, k, prefix_k, v)),
            "The values begin with the prefix's *keys*. It has values of its own: what is found and what is fetched "
            "are learned separately.",
        ),
        Mistake(
            "first text only",
            prefixed_with(join=lambda prefix, own: torch.cat(
                [for_the_batch(prefix, own) * (torch.arange(len(own)) == 0).to(own.dtype)[:, None, None, None], own],
                dim=2)),
            "Only the first text of the batch has the prefix, the others have zeros. It is the same for all.",
        ),
        Mistake(
            "positions as they were",
            prefixed_with(place=lambda p, length: p),
            "Keys and values have l more places than there are positions: a mask cannot be made of these.",
        ),
        Mistake(
            "hidden",
            prefixed_with(place=lambda p, length: torch.cat([p.new_full((*p.shape[:-1], length), -1), p], dim=-1)),
            "The prefix has position -1. That means padding, which nobody sees: it is there and has no effect.",
        ),
        Mistake(
            "tokens moved on",
            prefixed_with(place=counted_on),
            "The tokens' positions have moved on by l. Their keys are rotated already, for the positions that they "
            "had, and so are the queries.",
        ),
        Mistake(
            "counted through",
            prefixed_with(place=counted_through),
            "You count through from the prefix to the tokens. This prefix is not text in front of the text: the "
            "tokens keep their positions, for which their keys are rotated, and the prefix has no order.",
        ),
        Mistake(
            "prefix numbered",
            prefixed_with(place=numbered_prefix),
            "You number the places of the prefix. The token at position 0 then sees the first of them only, and the "
            "one at position 1 two: only later tokens see it all.",
        ),
        Mistake(
            "dtype of the prefix",
            prefixed_with(join=lambda prefix, own: torch.cat([for_the_batch(prefix, own, cast=False), own], dim=2)),
            "A float32 prefix has made a bfloat16 layer's keys and values float32: `torch.cat` takes the wider dtype. "
            "Cast the prefix.",
        ),
    ),
)
