r"""Memory in large pages, where the system has them.

A processor keeps the addresses of a few thousand pages at hand and looks up the others in tables in memory. A step
walks through all weights, 34 thousand pages of 4 KiB for SmolLM2-135M in 8 bits, and what fetches memory ahead stops at
the end of each. In pages of 2 MiB there are 65.
"""

import contextlib
import mmap
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from minillm.inference.fast.tiles import TiledMatrix

LARGE_PAGE = 2**21


def large_page_memory(n_bytes: int) -> UInt8[Tensor, "n_bytes"]:
    r"""Memory for much that is read in one go.

    Args:
        n_bytes: how much.
    Returns: zeros, uint8, starting at a page, in large pages if Linux has some to give, otherwise in those of always.
    Source: Linux manual, madvise(2), MADV_HUGEPAGE.
    Lesson: 11.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # Linux alone has it
        return torch.zeros(n_bytes, dtype=torch.uint8)
    memory = mmap.mmap(-1, n_bytes + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a Linux built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)  # every view of it keeps the memory mapped
    start = -whole.data_ptr() % LARGE_PAGE
    return whole[start : start + n_bytes]


def into_large_pages(matrices: list[TiledMatrix]) -> None:
    r"""Move the tiles of all matrices into one region, one matrix after the other.

    Args:
        matrices: each is replaced in turn, so that there are never two copies of all.
    Lesson: 11.
    """
    sizes = [matrix.tiles.nbytes for matrix in matrices]
    for i, part in enumerate(large_page_memory(sum(sizes)).split(sizes)):
        tiles = part.view(matrices[i].tiles.shape).copy_(matrices[i].tiles)
        matrices[i] = replace(matrices[i], tiles=tiles)
