r"""Tiles moved into large pages are the same tiles, and stay where they are as long as somebody looks at them."""

import gc
import mmap
from pathlib import Path

import pytest
import torch

from minillm.inference.fast.large_pages import LARGE_PAGE, into_large_pages, large_page_memory
from minillm.inference.fast.tiles import tile_int4, tile_int8
from minillm.inference.quantization.int4 import int4_groups
from minillm.inference.quantization.rows import quantize_rows


class RefusedMemory(mmap.mmap):
    r"""What a Linux gives that was built without large pages."""

    def madvise(self, *_):
        raise OSError(22, "Invalid argument")


@pytest.mark.parametrize("system", ["this one", "none", "refused"])
def test_the_tiles_stay_the_same_and_lie_one_after_the_other(system, monkeypatch):
    if system == "none":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    elif system == "refused":
        monkeypatch.setattr(mmap, "mmap", RefusedMemory)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((40, 64), (16, 32), (5, 96))]
    matrices = [tile(*each) for weight in weights
                for tile, each in ((tile_int8, quantize_rows(weight)), (tile_int4, int4_groups(weight, 32)))]
    before = list(matrices)
    into_large_pages(matrices)
    for old, new in zip(before, matrices, strict=True):
        assert torch.equal(old.tiles, new.tiles) and new.unit is old.unit and new.n_bits == old.n_bits
        assert new.tiles.data_ptr() % 64 == 0
    for one, following in zip(matrices, matrices[1:], strict=False):
        assert one.tiles.data_ptr() + one.tiles.nbytes == following.tiles.data_ptr()


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no such advice")
def test_it_asks_for_large_pages_from_the_start_of_one():
    memory = large_page_memory(3 * LARGE_PAGE)
    assert memory.data_ptr() % LARGE_PAGE == 0 and memory.nbytes == 3 * LARGE_PAGE
    inside, flags = False, ""
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            start, end = (int(each, 16) for each in first.split("-"))
            inside = start <= memory.data_ptr() < end
        elif inside and first == "VmFlags:":
            flags = line
    assert not flags or "hg" in flags.split()


def test_a_view_keeps_its_memory():
    part = large_page_memory(LARGE_PAGE + 5).fill_(7)[LARGE_PAGE:]
    gc.collect()
    others = [large_page_memory(LARGE_PAGE) for _ in range(4)]
    assert part.tolist() == [7] * 5 and not any(bool(other.any()) for other in others)
