r"""Room for new tokens in blocks."""

from collections.abc import Callable, Iterator
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Found = tuple[list[int], list[int], list[int]]


def table_cases(draw: Draw) -> Iterator[Case]:
    yield ([7, 2], 5, 4, [3, 0, 5], 4), {}
    block_len = draw.size(3, 5)
    for length, n_new in (
        (0, 1), (0, 2 * block_len), (block_len, 1), (2 * block_len, block_len + 1), (block_len - 1, 1),
        (block_len + 1, draw.size(3, 9)), (2 * block_len - 1, draw.size(2, 9)), (block_len + 1, 0), (2 * block_len, 0),
    ):
        yield sequence_and_free(draw, length, n_new, block_len, spare=draw.size(1, 3)), {}
    yield sequence_and_free(draw, draw.size(1, 3), 4, 1, spare=0), {}
    yield sequence_and_free(draw, block_len + 1, 2 * block_len, block_len, spare=-1), {}  # to be refused


def sequence_and_free(draw: Draw, length: int, n_new: int, block_len: int, spare: int) -> tuple[Any, ...]:
    r"""A sequence in random blocks, and as many free ones as it will need and `spare` more."""
    n_held, n_later = -(-length // block_len), -(-(length + n_new) // block_len)
    blocks = draw.sizes(n_later + max(spare, 0), 0, 30)
    return blocks[:n_held], length, n_new, blocks[n_held : n_later + spare], block_len


def placed_one_by_one(block_table: list[int], length: int, n_new: int, free_blocks: list[int], block_len: int) -> Found:
    r"""Place one token after the other; open a block when there is none for it."""
    table, free, slots = list(block_table), list(free_blocks), []
    for place in range(length, length + n_new):
        if place // block_len == len(table):
            if not free:
                raise ValueError(f"free_blocks: no block is left for token {place}")
            table.append(free.pop(0))
        slots.append(table[-1] * block_len + place % block_len)
    return table, free, slots


def table_with(
    needed: Callable[[int, int, int], int] = lambda length, n_new, size: -(-(length + n_new) // size),
    slot: Callable[[list[int], int, int, int], int] = lambda table, place, first, size: (
        table[place // size] * size + place % size
    ),
    back: bool = False,
    keep_free: bool = False,
    refuse: bool = True,
) -> Callable[..., Found]:
    r"""A block_table_append in which one thing is done in another way; slot(table, place, first new place, size)."""

    def function(block_table: list[int], length: int, n_new: int, free_blocks: list[int], block_len: int) -> Found:
        count = max(needed(length, n_new, block_len) - len(block_table), 0)
        if count > len(free_blocks) and refuse:
            raise ValueError(f"free_blocks: {count} are needed, {len(free_blocks)} are free")
        order = free_blocks[::-1] if back else free_blocks
        table, rest = block_table + order[:count], order[count:]
        rest = list(free_blocks) if keep_free else rest[::-1] if back else rest
        places = [p for p in range(length, length + n_new) if refuse or p // block_len < len(table)]
        slots = [slot(table, p, length, block_len) for p in places]
        return table, rest, slots

    return function


def last_block_left(block_table: list[int], length: int, n_new: int, free_blocks: list[int], block_len: int) -> Found:
    table, free, slots = placed_one_by_one([], 0, n_new, free_blocks, block_len)
    return block_table + table, free, slots


def lists_changed(block_table: list[int], length: int, n_new: int, free_blocks: list[int], block_len: int) -> Found:
    table, free, slots = placed_one_by_one(block_table, length, n_new, free_blocks, block_len)
    block_table[:], free_blocks[:] = table, free
    return block_table, free_blocks, slots


BLOCK_TABLE_APPEND = Exercise(
    id="inference.caches.block_table.block_table_append",
    lesson="10",
    title="Find room in blocks",
    task="Memory is cut into blocks of `block_len` slots: block 3 of 4 slots has the slots 12 to 15. A sequence has "
    "`length` tokens; `block_table` lists its blocks in the order of the text, and the last may be partly empty. Find "
    "room for `n_new` more: first in the last block, then in blocks from the *front* of `free_blocks`, no more of them "
    "than needed.\n\n"
    "Return three lists: the new block table, the blocks that are still free, and the slot of each new token. Change "
    "none of the lists you were given. If the free blocks do not suffice, raise a ValueError.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=104,
    hints=(
        "Blocks of 4, five tokens in blocks 7 and 2, and four more to come. Draw both blocks with their slots' "
        "numbers. Where does token 5 go, and token 8?",
        "Token number p of a sequence (counted from 0) stands in entry p // block_len of its table. At which place of "
        "that block?",
        "How many blocks do length + n_new tokens need in all? Rounding up with whole numbers is `-(-a // b)`.",
    ),
    cases=table_cases,
    oracle=placed_one_by_one,
    other_style=table_with(),
    tolerance=Tolerance(0.0, 0.0, "whole numbers"),
    mistakes=(
        Mistake(
            "the last block's rest is left",
            last_block_left,
            "You begin with a new block, although the last one still has room. Each call then wastes part of a block, "
            "and token number p is no longer found in entry p // block_len.",
        ),
        Mistake(
            "slots of the text",
            table_with(slot=lambda table, place, first, size: place),
            "Your slots are the tokens' numbers in the text, as if the blocks lay one after the other from 0 on. Look "
            "up in the table where the block really is.",
        ),
        Mistake(
            "block number not multiplied",
            table_with(slot=lambda table, place, first, size: table[place // size] + place % size),
            "You add the place in the block to the block's number. Block 3 of 4 slots begins at slot 12: multiply by "
            "`block_len`.",
        ),
        Mistake(
            "places counted from the chunk",
            table_with(slot=lambda table, place, first, size: table[place // size] * size + (place - first) % size),
            "The place in the block is counted from the first new token. It is counted from the beginning of the text: "
            "otherwise new tokens are written over old ones of the same block.",
        ),
        Mistake(
            "always the last block",
            table_with(slot=lambda table, place, first, size: table[-1] * size + place % size),
            "All tokens go to the last block of the new table. A chunk may cross from one block into the next: each "
            "token has an entry of its own.",
        ),
        Mistake(
            "one block too early",
            table_with(needed=lambda length, n_new, size: (length + n_new) // size + 1),
            "When the last block is exactly full, you take another one at once. Take it when a token comes that needs "
            "it: a sequence may end right there.",
        ),
        Mistake(
            "blocks for the new tokens alone",
            table_with(needed=lambda length, n_new, size: -(-length // size) + -(-n_new // size)),
            "You count the blocks that the new tokens would need by themselves. Some of them find room in the last "
            "block: count what the whole text needs, less what it has.",
        ),
        Mistake(
            "from the back",
            table_with(back=True),
            "You take free blocks from the back of the list; take them from the front. (Either would do in an engine, "
            "but what others computed with the same list must come out the same.)",
        ),
        Mistake(
            "still on the free list",
            table_with(keep_free=True),
            "The blocks that you took are still in the list of free ones. The next sequence will get them too, and "
            "write over this one's memory: two users read each other's text.",
        ),
        Mistake(
            "lists changed",
            lists_changed,
            "The result is right, but you changed the lists that you were handed (`append`, `pop`, `+=`). Whoever "
            "tries out whether there is room finds it taken. Make new lists.",
        ),
        Mistake(
            "too few accepted",
            table_with(refuse=False),
            "When the free blocks do not suffice, you place what fits, and the other tokens have no slot. Raise a "
            "ValueError, before anything is written.",
        ),
    ),
)
