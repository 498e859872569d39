r"""The paged cache: keys and values lie in blocks anywhere in memory, and a block table finds them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.inference.caches.block_pool import BlockPool
from minillm.inference.caches.token_shapes import require_parts
from minillm.layers.sizes import require_at_least_one


class PagedRows:
    r"""The sequences of a batch: the block table of each, and where the newest tokens went; shared by all layers.

    Padding is not stored, so rows of a padded batch hold as many tokens as they really have.

    Args:
        pool: where the blocks come from.
        block_tables: one list of blocks a row.
        counts: tokens stored for each row.
        length: tokens seen, padding included; the same for all rows.
    Lesson: 10.
    """

    def __init__(self, pool: BlockPool, block_tables: list[list[int]], counts: list[int], length: int):
        self.pool, self.block_tables, self.counts, self.length = pool, block_tables, counts, length
        self.newest: tuple[Tensor, ...] = ()

    def place(self, start: int, positions: Int[Tensor, "B T"]) -> tuple[Tensor, ...]:
        r"""Where to write a chunk and where to read; the first layer that asks finds the room, the others use it.

        Args:
            start: tokens that the asking layer has seen.
            positions: of the new tokens, (B, T), int; -1 = padding.
        Returns: rows, columns and slots of the tokens to write, (N,) each; the slots to read, (B, Tk); their positions,
            (B, Tk), -1 where a row has no more tokens.
        Raises:
            ValueError: if the layers do not go through the same chunks, or there are too few free blocks.
        """
        if start == self.length:
            self._make_room(positions)
        elif start + positions.shape[1] != self.length or not self.newest:
            raise ValueError(f"positions {tuple(positions.shape)}: this layer has seen {start} tokens and another one "
                             f"{self.length}; pass all layer caches of a model together")
        return self.newest

    def choose(self, rows: Sequence[int]) -> None:
        r"""Replace the sequences by some of them, which share all blocks of the ones that they go on from.

        Args:
            rows: which old row each new one goes on from; one may come several times, or not at all.
        """
        tables = [list(self.block_tables[row]) for row in rows]
        for table in tables:  # first hold, then let go: a block that stays must not become free in between
            self.pool.hold(table)
        for table in self.block_tables:
            self.pool.release(table)
        self.block_tables, self.counts, self.newest = tables, [self.counts[row] for row in rows], ()

    def _make_room(self, positions: Tensor) -> None:
        pool, real = self.pool, positions >= 0
        n_new = real.sum(dim=1).tolist()
        self.block_tables, slots = pool.extend(self.block_tables, self.counts, n_new)
        self.counts = [count + new for count, new in zip(self.counts, n_new, strict=True)]
        self.length += positions.shape[1]
        rows, columns = real.nonzero(as_tuple=True)  # row after row, as the slots
        write = torch.tensor([slot for row in slots for slot in row], dtype=torch.int64, device=rows.device)
        pool.positions[write] = positions[rows, columns]
        read = self._slots_of_all(positions.device)
        counts = torch.tensor(self.counts, device=read.device)
        stored = torch.arange(read.shape[1], device=read.device) < counts[:, None]
        self.newest = (rows, columns, write, read, pool.positions[read].masked_fill(~stored, -1))

    def _slots_of_all(self, device: torch.device) -> Tensor:
        longest = max(1, *map(len, self.block_tables))  # one, be it hidden: attention wants a key
        padded = [table + [0] * (longest - len(table)) for table in self.block_tables]
        firsts = torch.tensor(padded, dtype=torch.int64, device=device) * self.pool.block_len
        return (firsts[:, :, None] + torch.arange(self.pool.block_len, device=device)).flatten(1)


class PagedCache:
    r"""One layer's view of a pool of blocks.

    Blocks of 2, two rows, after 3 tokens each:

        block            0       1       2       3
        pool           k2 .    k0 k1   K0 K1   K2 .
        block tables   row 0: [1, 0]   row 1: [2, 3]

    Args:
        layer: which layer of the pool.
        rows: the sequences, shared with the other layers.
    Source: Kwon et al. 2023, PagedAttention, section 4.1. Here blocks are gathered before attention; their kernel reads
        them where they lie.
    Lesson: 10.
    """

    def __init__(self, layer: int, rows: PagedRows):
        self.rows = rows
        self.length = rows.length
        self._layer = layer

    @property
    def capacity(self) -> int:
        r"""Tokens of one sequence, if it had the pool for itself."""
        return self.rows.pool.n_blocks * self.rows.pool.block_len

    def append(
        self, k: Float[Tensor, "B *heads T Fk"], v: Float[Tensor, "B *heads T Fv"], positions: Int[Tensor, "*b T"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Write the new tokens into their blocks and gather everything so far.

        Args:
            k: keys of the new tokens, (B, Hk, T, Dh), or latents, (B, T, R); cast to the pool's dtype.
            v: values, or rotated keys, (B, T, Dr).
            positions: (T,) or (B, T), int; -1 = padding.
        Returns: keys and values so far, (B, Hk, Tk, Dh) in k's dtype, and their positions, (B, Tk), -1 in empty slots.
        Raises:
            ValueError: if there are too few free blocks, or the shapes are not the pool's.
        """
        pool, batch_size = self.rows.pool, len(self.rows.counts)
        require_parts(pool.shapes, batch_size, k, v)
        rows, columns, write, read, kv_positions = self.rows.place(self.length, positions.expand(batch_size, -1))
        self.length += k.shape[-2]
        seen = []
        for part, new in zip(pool.parts, (k, v), strict=True):
            stored = part[self._layer]
            stored[write] = new.movedim(-2, 1)[rows, columns].to(stored.dtype)
            seen.append(stored[read].movedim(1, -2).to(k.dtype))
        return seen[0], seen[1], kv_positions

    def choose(self, rows: Int[Tensor, "B_new"]) -> None:
        r"""Replace the sequences by some of them, as beam search does; nothing is copied.

        Args:
            rows: which old row each new one goes on from. Every layer must be asked; the first one does it for all.
        """
        if self._layer == 0:
            self.rows.choose(rows.tolist())


def paged_caches(model: Any, batch_size: int, pool: BlockPool) -> list[PagedCache]:
    r"""One paged cache a block of the model, empty; blocks are taken as tokens come.

    Args:
        model: the pool's.
        batch_size: B.
        pool: from `block_pool`.
    Returns: layer caches, to be passed as `cache`.
    Raises:
        ValueError: if the pool was made for another number of layers.
    Source: Kwon et al. 2023, PagedAttention, section 4.3.
    Lesson: 10.
    """
    require_at_least_one(batch_size=batch_size)
    n_layers = pool.parts[0].shape[0]
    if n_layers != len(model.blocks):
        raise ValueError(f"pool: it has {n_layers} layers, the model {len(model.blocks)}; use block_pool(model, ...)")
    rows = PagedRows(pool, [[] for _ in range(batch_size)], [0] * batch_size, 0)
    return [PagedCache(layer, rows) for layer in range(n_layers)]


def fork_rows(caches: Sequence[PagedCache], rows: Sequence[int]) -> list[PagedCache]:
    r"""New caches whose rows share all blocks with old ones: for several samples of one prompt, or the next beams.

    Nothing is copied. A row that goes on writing into a block that it shares takes a copy of that block first.

    Args:
        caches: of all layers; they stay as they are.
        rows: which old row each new one goes on from; one may come several times.
    Returns: layer caches.
    Raises:
        ValueError: if a row does not exist.
    Source: Kwon et al. 2023, PagedAttention, section 4.4.
    Lesson: 10.
    """
    old = caches[0].rows
    if not rows or not all(0 <= row < len(old.counts) for row in rows):
        raise ValueError(f"rows={list(rows)}: use numbers of 0..{len(old.counts) - 1}, at least one")
    tables = [list(old.block_tables[row]) for row in rows]
    for table in tables:
        old.pool.hold(table)
    shared = PagedRows(old.pool, tables, [old.counts[row] for row in rows], old.length)
    return [PagedCache(layer, shared) for layer in range(len(caches))]


def release_rows(caches: Sequence[PagedCache]) -> None:
    r"""Give all blocks of a batch back to the pool; the caches are empty afterwards.

    Args:
        caches: of all layers.
    Lesson: 10.
    """
    rows = caches[0].rows
    for table in rows.block_tables:
        rows.pool.release(table)
    rows.block_tables, rows.counts, rows.length, rows.newest = [[] for _ in rows.counts], [0] * len(rows.counts), 0, ()
    for cache in caches:
        cache.length = 0
