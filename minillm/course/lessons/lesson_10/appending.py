r"""Write new tokens behind the cached ones."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]


def append_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([[1.0], [2.0], [3.0], [0.0], [0.0], [0.0]]), torch.tensor([[4.0], [5.0]]), 3), {}
    b, h, width = draw.sizes(3, 2, 5)
    yield (draw.normal(b, h, 9, width), draw.normal(b, h, 3, width), draw.size(2, 5)), {}
    yield (draw.normal(b, h, 7, width), draw.normal(b, h, 1, width), draw.size(1, 5)), {}
    yield (draw.normal(b, h, 6, width), draw.normal(b, h, 4, width), 0), {}
    yield (draw.normal(b, 8, width, dtype=torch.float64), draw.normal(b, 3, width, dtype=torch.float64), 5), {}  # full
    yield (draw.normal(b, h, 8, width, dtype=torch.bfloat16), draw.normal(b, h, 2, width), 4), {}
    yield (draw.normal(b, h, 6, width), draw.normal(b, h, 3, width), 4), {}  # to be refused


def slot_by_slot(stored: Tensor, new: Tensor, length: int) -> Tensor:
    r"""Fill a list of slots one by one."""
    slots = list(stored.clone().unbind(-2))
    if length + new.shape[-2] > len(slots):
        raise ValueError(f"length={length}: {new.shape[-2]} more tokens do not fit into {len(slots)} slots")
    for i, token in enumerate(new.unbind(-2)):
        slots[length + i] = token.to(stored.dtype)
    return torch.stack(slots, dim=-2)


def scattered(stored: Tensor, new: Tensor, length: int) -> Tensor:
    if length + new.shape[-2] > stored.shape[-2]:
        raise ValueError(f"{new.shape[-2]} tokens behind {length} do not fit")
    return stored.slice_scatter(new.to(stored.dtype), stored.dim() - 2, length, length + new.shape[-2])


def append_with(rule: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., Tensor]:
    r"""An append that refuses what does not fit, and else follows a rule."""

    def wrong(stored: Tensor, new: Tensor, length: int) -> Tensor:
        if length + new.shape[-2] > stored.shape[-2]:
            raise ValueError(f"length={length}: {new.shape[-2]} tokens do not fit")
        return rule(stored, new, length)

    return wrong


def written_at(start: Callable[[int, int, int], int]) -> Callable[..., Tensor]:
    r"""Write from the slot start(length, tokens, capacity) on."""

    def rule(stored: Tensor, new: Tensor, length: int) -> Tensor:
        out, first = stored.clone(), start(length, new.shape[-2], stored.shape[-2])
        out[..., first : first + new.shape[-2], :] = new
        return out

    return append_with(rule)


def append_added(stored: Tensor, new: Tensor, length: int) -> Tensor:
    out = stored.clone()
    out[..., length : length + new.shape[-2], :] += new.to(stored.dtype)
    return out


def append_emptied(stored: Tensor, new: Tensor, length: int) -> Tensor:
    out = torch.zeros_like(stored)
    out[..., :length, :], out[..., length : length + new.shape[-2], :] = stored[..., :length, :], new
    return out


def append_in_place(stored: Tensor, new: Tensor, length: int) -> Tensor:
    stored[..., length : length + new.shape[-2], :] = new
    return stored


def append_joined(stored: Tensor, new: Tensor, length: int) -> Tensor:
    return torch.cat([stored[..., :length, :], new, stored[..., length + new.shape[-2] :, :]], dim=-2)


def append_oldest_out(stored: Tensor, new: Tensor, length: int) -> Tensor:
    spare = stored.shape[-2] - length - new.shape[-2]
    if spare >= 0:
        return append_joined(stored, new.to(stored.dtype), length)
    return torch.cat([stored[..., -spare:length, :], new.to(stored.dtype)], dim=-2)


def append_cut(stored: Tensor, new: Tensor, length: int) -> Tensor:
    return append_joined(stored, new[..., : stored.shape[-2] - length, :].to(stored.dtype), length)


CACHE_APPEND = Exercise(
    id="layers.cache.cache_append",
    lesson="10",
    title="Append to a cache",
    task="`stored` has `capacity` slots for tokens, on the axis before the last; the first `length` are taken. Write "
    "the new tokens into the slots behind them and give back the whole, as a new tensor of the same shape and dtype. "
    "All other slots stay as they are. If the new tokens do not fit, raise a ValueError.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=101,
    hints=(
        "Capacity 6, three slots taken, two new tokens: write down the numbers of the slots that change.",
        "Which slots come before them, which behind? The result is three pieces side by side, or a copy of which one "
        "piece is written over.",
        "`...` in an index stands for all axes in front, however many there are: `x[..., a:b, :]`. And what is the "
        "dtype of a cache in bfloat16 after a float32 token has come?",
    ),
    cases=append_cases,
    oracle=slot_by_slot,
    other_style=scattered,
    tolerance=Tolerance(0.0, 0.0, "numbers are copied, never computed with"),
    mistakes=(
        Mistake(
            "from the first slot on",
            written_at(lambda length, n_new, capacity: 0),
            "You write from slot 0 on, over the oldest tokens. The first `length` slots are taken; the first free one "
            "is slot `length`.",
        ),
        Mistake(
            "at the end of the memory",
            written_at(lambda length, n_new, capacity: capacity - n_new),
            "You write into the last slots of the memory. The tokens follow directly on those that are there: a gap of "
            "unwritten slots would be read as tokens.",
        ),
        Mistake(
            "one slot too far",
            written_at(lambda length, n_new, capacity: min(length + 1, capacity - n_new)),
            "You begin one slot too late. Slots are counted from 0, so after `length` tokens the next one is slot "
            "`length`.",
        ),
        Mistake(
            "free slots cut off",
            append_with(lambda stored, new, length: torch.cat([stored[..., :length, :], new.to(stored.dtype)], dim=-2)),
            "What you return has only the slots that are taken; the free ones are gone, and the next token finds no "
            "room. The shape of `stored` stays.",
        ),
        Mistake(
            "joined to the whole",
            append_with(lambda stored, new, length: torch.cat([stored, new.to(stored.dtype)], dim=-2)),
            "You join the new tokens to all slots, the free ones included: the memory grows with every call, and the "
            "free slots stay in the middle. Write into them.",
        ),
        Mistake(
            "added",
            append_with(append_added),
            "You add the new numbers to what is in the slots. A free slot may hold remains of an older text: write "
            "over them.",
        ),
        Mistake(
            "other slots emptied",
            append_with(append_emptied),
            "You set the free slots to zero. They were to stay as they are: this function writes the new tokens and "
            "nothing else.",
        ),
        Mistake(
            "in place",
            append_with(append_in_place),
            "The values are right, but you have written into the tensor that you were handed. Whoever kept the cache "
            "of a moment ago, to try another next token from it, say, now has yours. Make a copy first.",
        ),
        Mistake(
            "dtype of the new tokens",
            append_with(append_joined),
            "A float32 token turns your bfloat16 cache into a float32 one of twice the size: `torch.cat` takes the "
            "wider of two dtypes. The cache keeps its own; cast the new tokens.",
        ),
        Mistake(
            "oldest pushed out",
            append_oldest_out,
            "When the tokens do not fit, you push out the oldest. That is right for a layer with a window; here every "
            "token may still be needed, and a text that forgets in silence is hard to find. Raise a ValueError.",
        ),
        Mistake(
            "cut to fit",
            append_cut,
            "When the tokens do not fit, you drop those that are too many, and nobody hears of it. Raise a ValueError.",
        ),
    ),
)
