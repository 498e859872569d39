r"""The contiguous cache: chunked appends equal one append, and both overflows are refused without harm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.cache import KVCache, cache_append
from minillm.layers.paths import plain_path


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


@given(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3), st.sampled_from([(), (2,), (2, 3)]))
def test_the_pure_append_writes_behind_what_is_there_and_nowhere_else(length, n_new, n_free, batch):
    stored, new = torch.randn(*batch, length + n_new + n_free, 3), torch.randn(*batch, n_new, 3, dtype=torch.float64)
    before, want = stored.clone(), stored.clone()
    for i in range(n_new):
        want[..., length + i, :] = new[..., i, :].float()
    got = cache_append(stored, new, length)
    assert torch.equal(got, want) and got.dtype == torch.float32 and torch.equal(stored, before)
    with pytest.raises(ValueError, match=f"more than capacity={stored.shape[-2]}"):
        cache_append(stored, new, length + n_free + 1)


def test_both_paths_write_the_same(fresh_seed):
    torch.manual_seed(fresh_seed)
    caches = [KVCache(2, 3, 6, 4, dtype=torch.bfloat16) for _ in range(2)]
    for n_new in (3, 1, 2):
        k, v, positions = torch.randn(2, 3, n_new, 4), torch.randn(2, 3, n_new, 4), torch.randint(-1, 9, (2, n_new))
        fused = caches[0].append(k, v, positions)
        with plain_path():
            plain = caches[1].append(k, v, positions)
        assert all(torch.equal(a, b) for a, b in zip(fused, plain, strict=True))
