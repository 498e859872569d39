r"""Pooling against loops over single rows, whatever stands at padding."""

import torch

from minillm.inference import pooling
from minillm.layers.masks import causal_mask


def padded(seed, dtype=torch.float32):
    r"""Random vectors; padding on both sides, and in one row everywhere; garbage stands at padding."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(5, 9, 4, generator=generator).to(dtype)
    mask = torch.zeros(5, 9, dtype=torch.bool)
    for row in range(4):
        first, last = sorted(torch.randperm(9, generator=generator)[:2].tolist())
        mask[row, first : last + 1] = True
    hidden[~mask] = torch.tensor([float("nan"), float("inf"), -1e4, 7.0], dtype=dtype)
    return hidden, mask


def test_mean_pool_is_the_mean_of_each_row_s_own_tokens(fresh_seed):
    for dtype in (torch.float32, torch.bfloat16):
        hidden, mask = padded(fresh_seed, dtype)
        got = pooling.mean_pool(hidden, mask)
        for row in range(4):
            want = torch.stack([hidden[row, t] for t in range(9) if mask[row, t]]).double().mean(0).to(dtype)
            torch.testing.assert_close(got[row], want)
        assert got.dtype == dtype and torch.equal(got[4], torch.zeros(4, dtype=dtype))


def test_last_token_pool_takes_the_last_real_token(fresh_seed):
    hidden, mask = padded(fresh_seed)
    got = pooling.last_token_pool(hidden, mask)
    for row in range(4):
        assert torch.equal(got[row], hidden[row, max(t for t in range(9) if mask[row, t])])
    assert torch.equal(got[4], torch.zeros(4))


def test_in_a_causal_model_only_the_last_token_has_seen_all():
    seen = causal_mask(torch.arange(6), torch.arange(6)).float()[None]  # each token holds which tokens it has seen
    everything = torch.ones(1, 6, dtype=torch.bool)
    assert pooling.last_token_pool(seen, everything).tolist() == [[1.0] * 6]
    want = torch.tensor([[6.0, 5, 4, 3, 2, 1]]) / 6
    torch.testing.assert_close(pooling.mean_pool(seen, everything), want)
