r"""The cache stepper: see token after token what each kind of cache keeps, and who holds which block."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ipywidgets import Dropdown, IntSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import INK, new_figure
from minillm.course.scenes.cache_pictures import draw_boxes, open_panel
from minillm.inference.caches.block_pool import BlockPool
from minillm.inference.caches.paged import PagedCache, PagedRows, fork_rows, release_rows
from minillm.inference.caches.rolling import RollingCache
from minillm.inference.caches.sink_cache import SinkCache
from minillm.layers.cache import KVCache

TEXT = tuple("Mia had a cat . The cat ran off and Mia ran too .".split())
KINDS = ("contiguous", "rolling", "sinks", "paged")
ONE = ((1, 1), (1, 1))  # one head of one feature: enough to carry a token's number
N_BLOCKS, N_SINKS = 7, 1
# Who does what in the paged cache: (name, what they do, words).
EVENTS = (
    ("A", "reads a prompt", "the cat sat on the"),
    ("B", "answers the same prompt: it shares all blocks", ""),
    ("A", "writes", "mat"),
    ("B", "writes", "bed"),
    ("A", "writes", "."),
    ("B", "writes", "and"),
    ("C", "reads another prompt", "Leo ran"),
    ("B", "writes", "slept"),
    ("A", "has ended: its blocks are released", ""),
    ("C", "writes", "home"),
    ("B", "writes", "."),
    ("B", "has ended: its blocks are released", ""),
)
LAST_STEP = len(TEXT)


@dataclass(frozen=True)
class SlotState:
    r"""A cache of one text after some tokens.

    Args:
        seen: tokens that have come by.
        slots: the number of the token in each slot; None = free.
        positions: at which position each is read; None = free.
    """

    seen: int
    slots: tuple[int | None, ...]
    positions: tuple[int | None, ...]


@dataclass(frozen=True)
class PagedState:
    r"""A pool of blocks after some events.

    Args:
        event: what has just happened, in words.
        tables: the block table of each text.
        counts: tokens of each text.
        words: what stands in each slot of each block; None = nothing that anybody reads.
        ref_counts: holders of each block.
        free_blocks: in the order in which they are taken.
        copies: blocks copied on write so far.
        written: slots in which the event wrote, block * block_len + place.
    """

    event: str
    tables: dict[str, tuple[int, ...]]
    counts: dict[str, int]
    words: tuple[tuple[str | None, ...], ...]
    ref_counts: tuple[int, ...]
    free_blocks: tuple[int, ...]
    copies: int
    written: frozenset[int]


def slot_states(kind: str, n_tokens: int, size: int) -> list[SlotState]:
    r"""Feed tokens one by one to a real layer cache, and keep every state.

    Args:
        kind: contiguous, rolling or sinks.
        n_tokens: how many.
        size: the window of a rolling cache, and that beside the sinks.
    Returns: the state after each token, n_tokens of them.
    Raises:
        ValueError: if there is no such kind.
    """
    if kind == "contiguous":
        cache = KVCache(1, 1, max(n_tokens, LAST_STEP), 1)
    elif kind == "rolling":
        cache = RollingCache(1, size, ONE)
    elif kind == "sinks":
        cache = SinkCache(1, N_SINKS, size, ONE)
    else:
        raise ValueError(f"kind={kind!r}: use contiguous, rolling or sinks")
    states = []
    for token in range(n_tokens):
        place = torch.tensor([cache.length])
        _, numbers, positions = cache.append(*_one_token([token]), place)
        held = [(int(number), int(position)) if position >= 0 else (None, None)
                for number, position in zip(numbers.flatten(), positions.flatten(), strict=True)]
        held += [(None, None)] * (cache.capacity - len(held))
        states.append(SlotState(token + 1, *(tuple(part) for part in zip(*held, strict=True))))
    return states


def paged_states(n_events: int, block_len: int) -> list[PagedState]:
    r"""Let texts share a real pool of blocks, and keep every state.

    Args:
        n_events: of EVENTS.
        block_len: tokens a block.
    Returns: the state before everything and after each event.
    """
    pool = BlockPool(1, N_BLOCKS, block_len, ONE)
    texts: dict[str, list[PagedCache]] = {}
    vocabulary = sorted({word for *_, words in EVENTS for word in words.split()})
    states = [_paged_state(pool, texts, "nothing has happened yet", vocabulary, ())]
    for name, action, words in EVENTS[:n_events]:
        if action.startswith("answers"):
            texts[name] = fork_rows(texts["A"], [0])
        elif action.startswith("has ended"):
            release_rows(texts.pop(name))
        new, copies, written = words.split(), pool.copies, []
        if new:
            (cache,) = texts.setdefault(name, [PagedCache(0, PagedRows(pool, [[]], [0], 0))])
            places = cache.length + torch.arange(len(new))
            cache.append(*_one_token([vocabulary.index(word) for word in new]), places)
            table = cache.rows.block_tables[0]
            written = [table[place // block_len] * block_len + place % block_len for place in places.tolist()]
        event = f"{name} {action}" + (f": {words}" if new else "")
        event += "; its last block was shared, so it took a copy" if pool.copies > copies else ""
        states.append(_paged_state(pool, texts, event, vocabulary, written))
    return states


def stepper_view(kind: str, step: int, size: int) -> Figure:
    r"""Draw a cache after some steps.

    Args:
        kind: one of KINDS.
        step: tokens that have come, or events that have happened.
        size: tokens of the window, or of a block.
    Returns: the picture.
    Raises:
        ValueError: if there is no such kind.
    """
    if kind == "paged":
        return _paged_picture(paged_states(step, size)[-1])
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KINDS)}")
    return _slot_picture(kind, slot_states(kind, max(step, 1), size)[-1])


def cache_controls(kind: str = "paged", step: int = 4, size: int = 4) -> dict[str, Widget]:
    r"""The controls of the stepper.

    Args:
        kind: where the menu starts.
        step: where the slider starts.
        size: where the other one starts.
    Returns: a widget for each argument of `stepper_view`.
    """
    look = {"style": {"description_width": "8em"}, "layout": {"width": "34em"}}
    return {
        "kind": Dropdown(options=list(KINDS), value=kind, description="cache", **look),
        "step": IntSlider(value=step, min=0, max=LAST_STEP, description="step", **look),
        "size": IntSlider(value=size, min=2, max=6, description="length", **look),
    }


def _one_token(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    part = torch.tensor(numbers, dtype=torch.float32).view(1, 1, -1, 1)
    return part, part


def _paged_state(
    pool: BlockPool, texts: dict[str, list[PagedCache]], event: str, vocabulary: list[str], written: Sequence[int]
) -> PagedState:
    tables = {name: tuple(caches[0].rows.block_tables[0]) for name, caches in texts.items()}
    counts = {name: caches[0].rows.counts[0] for name, caches in texts.items()}
    words: list[list[str | None]] = [[None] * pool.block_len for _ in range(pool.n_blocks)]
    for name, table in tables.items():
        for place in range(counts[name]):
            block, offset = table[place // pool.block_len], place % pool.block_len
            words[block][offset] = vocabulary[int(pool.parts[1][0, block * pool.block_len + offset, 0, 0])]
    return PagedState(event, tables, counts, tuple(map(tuple, words)), tuple(pool.ref_counts), tuple(pool.free_blocks),
                      pool.copies, frozenset(written))


def _slot_picture(kind: str, state: SlotState) -> Figure:
    figure, (text, slots) = new_figure(2, width=9.8, height=3.0)
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 1.5))
    text.set_subplotspec(grid[0])
    slots.set_subplotspec(grid[1])
    newest = state.seen - 1
    looks = ["new" if token == newest else "held" if token in state.slots else "gone" for token in range(state.seen)]
    draw_boxes(text, TEXT[: state.seen], looks, size=8)
    held = sum(token is not None for token in state.slots)
    open_panel(text, LAST_STEP, -0.6, 0.6, title=f"the text: {state.seen} tokens seen, {held} held")
    labels = ["" if token is None else TEXT[token] for token in state.slots]
    looks = ["free" if token is None else "new" if token == newest else "held" for token in state.slots]
    draw_boxes(slots, labels, looks, size=8)
    for place, (token, position) in enumerate(zip(state.slots, state.positions, strict=True)):
        if token is not None:
            notes = f"token {token}\nread at {position}"
            slots.text(place + 0.5, -0.55, notes, ha="center", va="top", fontsize=7, color=INK)
    open_panel(slots, LAST_STEP, -1.5, 0.6, title=f"{kind} cache: {len(state.slots)} slots")
    return figure


def _paged_picture(state: PagedState) -> Figure:
    figure, (pool, tables) = new_figure(2, width=9.8, height=4.2)
    figure.suptitle(state.event, fontsize=11, color=INK)
    block_len = len(state.words[0])
    for block, (words, holders) in enumerate(zip(state.words, state.ref_counts, strict=True)):
        kept = "shared" if holders > 1 else "held"
        looks = ["free" if word is None else "new" if block * block_len + place in state.written else kept
                 for place, word in enumerate(words)]
        draw_boxes(pool, [word or "" for word in words], looks, y=-block, size=8)
        pool.text(-0.2, -block, f"block {block}", ha="right", va="center", fontsize=8, color=INK)
        note = "free" if not holders else f"{holders} holder" + "s" * (holders > 1)
        pool.text(block_len + 0.2, -block, note, ha="left", va="center", fontsize=8, color=INK)
    n_used = len(state.words) - len(state.free_blocks)
    open_panel(pool, block_len + 1.4, -len(state.words) + 0.4, 0.6, left=-1.5,
               title=f"the pool: {n_used} of {len(state.words)} blocks in use, {state.copies} copied")
    _draw_tables(tables, state)
    return figure


def _draw_tables(axes: Axes, state: PagedState) -> None:
    for row, name in enumerate("ABC"):
        if name not in state.tables:
            axes.text(0, -row, f"{name}: not there", ha="left", va="center", fontsize=9, color="#777777")
            continue
        table = state.tables[name]
        axes.text(0, -row, f"{name}: {state.counts[name]} tokens in", ha="left", va="center", fontsize=9, color=INK)
        looks = ["shared" if state.ref_counts[block] > 1 else "held" for block in table]
        draw_boxes(axes, [str(block) for block in table], looks, left=2.6, y=-row)
    order = ", ".join(map(str, state.free_blocks)) or "none"
    axes.text(0, -3.4, f"free blocks, the next one first: {order}", ha="left", va="center", fontsize=9, color=INK)
    open_panel(axes, 6.6, -6.6, 0.6, title="block tables")
