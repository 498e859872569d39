r"""One cached step in pure functions: the mask by loops, and the layer's outputs for every chunking."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.caches import chunk


@given(st.integers(0, 6), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 6)), st.data())
def test_mask_by_loops(n_cached, n_new, window, data):
    total = n_cached + n_new
    rows = data.draw(st.one_of(st.none(), st.lists(st.lists(st.booleans(), min_size=total, max_size=total), min_size=1,
                                                   max_size=3)))
    real = None if rows is None else torch.tensor(rows)
    got = chunk.mask_for_chunk(n_cached, n_new, real, window)
    assert got.dtype == torch.bool and got.shape == ((n_new, total) if rows is None else (len(rows), n_new, total))
    for row, told in enumerate(rows or [[True] * total]):
        for i in range(n_new):
            query = n_cached + i
            for key in range(total):
                between = sum(told[key : query + 1]) - 1  # real tokens from the key to the query
                near = window is None or between < window
                want = key <= query and told[key] and told[query] and near
                assert bool(got[i, key] if rows is None else got[row, i, key]) == want


@given(st.sets(st.integers(1, 8)), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 8), st.integers(0, 2**31))
def test_every_chunking_gives_the_same_outputs(cuts, window, n_padding, seed):
    torch.manual_seed(seed)
    q = torch.randn(2, 4, 9, 3, dtype=torch.float64)
    k, v = torch.randn(2, 2, 9, 3, dtype=torch.float64), torch.randn(2, 2, 9, 3, dtype=torch.float64)
    real = torch.arange(9) >= torch.tensor([[0], [n_padding]])
    empty = torch.zeros(2, 2, 12, 3, dtype=torch.float64)
    whole, k_whole, v_whole = chunk.attend_chunk(q, k, v, empty, empty, 0, real, window)
    k_cache, v_cache, pieces, edges = empty, empty, [], [0, *sorted(cuts), 9]
    for start, end in zip(edges, edges[1:], strict=False):
        part, k_cache, v_cache = chunk.attend_chunk(
            q[:, :, start:end], k[:, :, start:end], v[:, :, start:end], k_cache, v_cache, start, real[:, :end], window)
        pieces.append(part)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole)
    assert torch.equal(k_cache, k_whole) and torch.equal(v_cache, v_whole) and not bool(empty.any())


def test_nonsense_is_refused():
    for counts in ((-1, 2), (3, 0)):
        with pytest.raises(ValueError, match="n_cached="):
            chunk.mask_for_chunk(*counts)
    with pytest.raises(ValueError, match=r"use \(B, 5\)"):
        chunk.mask_for_chunk(3, 2, torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="window=0"):
        chunk.mask_for_chunk(3, 2, window=0)
