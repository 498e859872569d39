r"""Masks against double loops over positions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.masks import bidirectional_mask, causal_mask, prefix_mask, sliding_window_mask

positions = st.lists(st.integers(-1, 12), min_size=1, max_size=9)


def table(q, k, rule):
    return torch.tensor([[i >= 0 and j >= 0 and rule(i, j) for j in k] for i in q])


@given(positions, positions, st.integers(1, 12))
def test_masks_equal_their_rule_in_words(q, k, n):
    tq, tk = torch.tensor(q), torch.tensor(k)
    assert torch.equal(bidirectional_mask(tq, tk), table(q, k, lambda i, j: True))
    assert torch.equal(causal_mask(tq, tk), table(q, k, lambda i, j: j <= i))
    assert torch.equal(prefix_mask(tq, tk, n), table(q, k, lambda i, j: j <= i or j < n))
    assert torch.equal(sliding_window_mask(tq, tk, n), table(q, k, lambda i, j: i - n < j <= i))


def test_rows_of_a_batch_and_shared_positions_broadcast(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    q = torch.randint(-1, 9, (3, 4), generator=generator)
    k = torch.randint(-1, 9, (3, 6), generator=generator)
    rows = torch.stack([causal_mask(a, b) for a, b in zip(q, k, strict=True)])
    assert torch.equal(causal_mask(q, k), rows)
    assert torch.equal(causal_mask(q[0], k), torch.stack([causal_mask(q[0], b) for b in k]))


def test_visible_pairs_of_16_tokens():
    p = torch.arange(16)
    counts = [bidirectional_mask(p, p), causal_mask(p, p), prefix_mask(p, p, 8), sliding_window_mask(p, p, 16)]
    assert [int(mask.sum()) for mask in counts] == [256, 136, 164, 136]


def test_bad_sizes_are_named():
    p = torch.arange(3)
    with pytest.raises(ValueError, match="window=0"):
        sliding_window_mask(p, p, 0)
    with pytest.raises(ValueError, match="prefix_len=-1"):
        prefix_mask(p, p, -1)
