r"""Memory for keys and values cut into blocks, which sequences take, share and give back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from minillm.inference.caches import block_table
from minillm.inference.caches.token_shapes import Shapes, stored_like, token_shapes
from minillm.layers.sizes import require_at_least_one


class BlockPool:
    r"""The blocks of all layers, and how many sequences hold each.

    One number names a block in every layer: what a sequence has in block 5 of layer 0 it has in block 5 of layer 1. A
    block that several sequences hold is read by all and written by none: who wants to write takes a copy first.

    Args:
        n_layers: L.
        n_blocks: blocks in each layer.
        block_len: tokens a block.
        shapes: from `token_shapes`, the same in all layers.
        dtype: of what is stored.
        device: where it lives.
    Attributes: `free_blocks` (list), `ref_counts` (how many hold each block), `copies` (blocks copied on write so far),
        `parts` (both parts of all tokens, (L, slots, ...)), `positions` (slots,).
    Raises:
        ValueError: if a size is less than 1.
    Source: Kwon et al. 2023, PagedAttention, sections 4.2 to 4.4.
    Lesson: 10.
    """

    def __init__(
        self,
        n_layers: int,
        n_blocks: int,
        block_len: int,
        shapes: Shapes,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        require_at_least_one(n_layers=n_layers, n_blocks=n_blocks, block_len=block_len)
        self.n_blocks, self.block_len, self.shapes, self.copies = n_blocks, block_len, shapes, 0
        self.free_blocks = list(range(n_blocks))
        self.ref_counts = [0] * n_blocks
        n_slots = n_blocks * block_len
        self.parts = tuple(torch.zeros((n_layers, n_slots, *shape), dtype=dtype, device=device) for shape in shapes)
        self.positions = torch.full((n_slots,), -1, dtype=torch.int64, device=device)

    @property
    def n_used(self) -> int:
        r"""Blocks that somebody holds."""
        return self.n_blocks - len(self.free_blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        r"""Count one more holder of blocks that are in use.

        Args:
            blocks: their numbers.
        Raises:
            ValueError: if one of them is free.
        """
        for block in blocks:
            if self.ref_counts[block] < 1:
                raise ValueError(f"blocks: {block} is free, so it holds nothing to share")
            self.ref_counts[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        r"""Count one holder less; a block that nobody holds is free again.

        Args:
            blocks: their numbers.
        Raises:
            ValueError: if one of them is free already.
        """
        for block in blocks:
            if self.ref_counts[block] < 1:
                raise ValueError(f"blocks: {block} is free already; release what was taken, and once")
            self.ref_counts[block] -= 1
            if not self.ref_counts[block]:
                self.free_blocks.append(block)

    def extend(
        self, tables: Sequence[list[int]], lengths: Sequence[int], n_new: Sequence[int]
    ) -> tuple[list[list[int]], list[list[int]]]:
        r"""Make room for new tokens of several sequences; what they would write into shared blocks is copied first.

        Args:
            tables: the block table of each sequence.
            lengths: tokens of each.
            n_new: tokens to come, of each.
        Returns: the new tables, and the slots of the new tokens of each sequence.
        Raises:
            ValueError: if there are too few free blocks; then nothing has been changed.
        """
        sequences = list(zip(tables, lengths, n_new, strict=True))
        growth = sum(block_table.blocks_needed(length + new, self.block_len) - len(table)
                     for table, length, new in sequences)
        # The last holder of a shared block may keep it: its writing disturbs nobody.
        writers = Counter(table[-1] for table, length, new in sequences if new and length % self.block_len)
        n_copies = sum(min(count, self.ref_counts[block] - 1) for block, count in writers.items())
        if growth + n_copies > len(self.free_blocks):
            raise ValueError(f"n_new={list(n_new)}: these tokens need {growth + n_copies} blocks of {self.block_len}, "
                             f"and {len(self.free_blocks)} of {self.n_blocks} are free; release sequences, or make the "
                             "pool larger")
        grown, slots = [], []
        for table, length, new in sequences:
            if new and length % self.block_len and self.ref_counts[table[-1]] > 1:
                table = [*table[:-1], self._copy(table[-1])]
            longer, free_blocks, places = block_table.block_table_append(
                table, length, new, self.free_blocks, self.block_len)
            for block in longer[len(table):]:
                self.ref_counts[block] = 1
            self.free_blocks = free_blocks
            grown.append(longer)
            slots.append(places)
        return grown, slots

    def _copy(self, block: int) -> int:
        fresh = self.free_blocks.pop(0)
        old, new = (slice(b * self.block_len, (b + 1) * self.block_len) for b in (block, fresh))
        for part in self.parts:
            part[:, new] = part[:, old]
        self.positions[new] = self.positions[old]
        self.ref_counts[fresh] = 1
        self.ref_counts[block] -= 1
        self.copies += 1
        return fresh


def block_pool(model: Any, n_blocks: int, block_len: int = 16, dtype: torch.dtype | None = None) -> BlockPool:
    r"""The blocks for a model, from which the caches of all its texts are made.

    Args:
        model: any with blocks of attention, alike in all layers.
        n_blocks: how many.
        block_len: tokens a block.
        dtype: of what is stored; None means the model's own.
    Returns: a `BlockPool`, all of it free.
    Source: Kwon et al. 2023, PagedAttention, section 4.2; blocks of 16 as in section 7.2.
    Lesson: 10.
    """
    return BlockPool(
        len(model.blocks), n_blocks, block_len, token_shapes(model.blocks[0].attn), **stored_like(model, dtype))
