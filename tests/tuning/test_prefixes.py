r"""Prefixes in front of keys and values: against loops and the algebra of attention."""

import torch

from minillm.tuning import prefixes


def test_prefix_kv_joins_along_the_tokens(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    batch_size, n_kv_heads, seq_len, head_dim, length = torch.randint(1, 6, (5,), generator=generator).tolist()
    k, v = torch.randn(2, batch_size, n_kv_heads, seq_len, head_dim, generator=generator)
    prefix_k, prefix_v = torch.randn(2, n_kv_heads, length, head_dim, generator=generator)
    for positions in (torch.arange(3, 3 + seq_len), torch.randint(-1, 9, (batch_size, seq_len), generator=generator)):
        k_all, v_all, all_positions = prefixes.prefix_kv(k, v, prefix_k, prefix_v, positions)
        assert all_positions.shape == (*positions.shape[:-1], length + seq_len)
        assert torch.equal(all_positions[..., length:], positions) and not all_positions[..., :length].any()
        for whole, own, prefix in ((k_all, k, prefix_k), (v_all, v, prefix_v)):
            assert torch.equal(whole[:, :, length:], own)
            assert all(torch.equal(row[:, :length], prefix) for row in whole)
