r"""The contiguous cache: chunked appends equal one append, and both overflows are refused without harm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.cache import KVCache


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2**31))
def test_appending_in_chunks_equals_appending_at_once(chunks, seed):
    torch.manual_seed(seed)
    n = sum(chunks)
    k, v, positions = torch.randn(2, 3, n, 4), torch.randn(2, 3, n, 4), torch.randint(-1, 50, (2, n))
    cache, start = KVCache(2, 3, n, 4), 0
    for size in chunks:
        part = slice(start, start + size)
        got = cache.append(k[:, :, part], v[:, :, part], positions[:, part])
        start += size
        assert cache.length == start
        for have, want in zip(got, (k[:, :, :start], v[:, :, :start], positions[:, :start]), strict=True):
            assert torch.equal(have, want)
    with pytest.raises(ValueError, match=f"capacity={n}"):
        cache.append(k[:, :, :1], v[:, :, :1], positions[:, :1])
    assert cache.length == n


def test_wrong_shapes_and_sizes_are_named():
    cache = KVCache(2, 3, 5, 4)
    with pytest.raises(ValueError, match="B, Hk, T, Dh"):
        cache.append(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4), torch.arange(1))
    assert cache.length == 0
    with pytest.raises(ValueError, match="capacity=0"):
        KVCache(1, 1, 0, 4)


def test_a_smaller_dtype_is_stored_and_given_back_in_the_callers():
    cache = KVCache(1, 1, 2, 4, dtype=torch.bfloat16)
    k = torch.randn(1, 1, 2, 4)
    got, _, positions = cache.append(k, k, torch.arange(2))
    assert got.dtype == torch.float32 and torch.equal(got, k.bfloat16().float())
    assert positions.tolist() == [[0, 1]]
