r"""Mean pooling of heads, and the two ends of grouped-query attention."""

import pytest
import torch
import torch.nn.functional as F

from minillm.layers import gqa_conversion, masks, multi_head
from minillm.layers.attention import Attention


@pytest.mark.parametrize("n_kv_heads", [1, 2, 3, 6])
def test_each_group_becomes_its_mean(n_kv_heads, fresh_seed):
    torch.manual_seed(fresh_seed)
    weight, bias = torch.randn(6 * 4, 10, dtype=torch.float64), torch.randn(6 * 4, dtype=torch.float64)
    size = 6 // n_kv_heads
    for value in (weight, bias):
        got = gqa_conversion.mean_pool_kv(value, 6, n_kv_heads)
        assert got.shape == (n_kv_heads * 4, *value.shape[1:])
        for group in range(n_kv_heads):
            for feature in range(4):
                rows = [value[(group * size + member) * 4 + feature] for member in range(size)]
                torch.testing.assert_close(got[group * 4 + feature], sum(rows) / size)


def test_heads_that_agree_lose_nothing(fresh_seed):
    r"""If the heads of each group are equal already, the converted layer computes the same."""
    torch.manual_seed(fresh_seed)
    grouped, full = Attention(24, 6, 2, 4, qkv_bias=True), Attention(24, 6, 6, 4, qkv_bias=True)
    state = {
        name: value.unflatten(0, (2, 4)).repeat_interleave(3, dim=0).flatten(0, 1)
        if name.startswith(("k_proj", "v_proj")) else value
        for name, value in grouped.state_dict().items()
    }
    full.load_state_dict(state)
    converted = Attention(24, 6, 2, 4, qkv_bias=True)
    converted.load_state_dict(gqa_conversion.pool_state(full.state_dict(), 6, 2))
    x, positions = torch.randn(2, 5, 24), torch.arange(5)
    torch.testing.assert_close(converted(x, positions), full(x, positions))


def test_as_many_groups_as_heads_is_multi_head_attention(fresh_seed):
    torch.manual_seed(fresh_seed)
    attn, x = Attention(12, 3, 3, 4).double(), torch.randn(2, 5, 12).double()
    w = [p.weight for p in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj)]
    want = multi_head.multi_head_attention(x, *w, 3, torch.ones(5, 5, dtype=torch.bool).tril())
    torch.testing.assert_close(attn(x, torch.arange(5)), want)
    same = gqa_conversion.pool_state(attn.state_dict(), 3, 3)
    assert all(torch.equal(same[name], value) for name, value in attn.state_dict().items())


def test_one_group_is_multi_query_attention(fresh_seed):
    r"""The oracle has a single key and a single value per token and no heads on that side at all."""
    torch.manual_seed(fresh_seed)
    attn, x = Attention(12, 3, 1, 4).double(), torch.randn(2, 5, 12).double()
    k, v = x @ attn.k_proj.weight.T, x @ attn.v_proj.weight.T
    out = []
    for head in range(3):
        q = x @ attn.q_proj.weight[head * 4 : (head + 1) * 4].T
        out.append(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    want = torch.cat(out, dim=-1) @ attn.o_proj.weight.T
    torch.testing.assert_close(attn(x, torch.arange(5)), want)


def test_a_window_of_all_tokens_is_full_attention(fresh_seed):
    torch.manual_seed(fresh_seed)
    x, n = torch.randn(1, 9, 12), 9
    full = Attention(12, 3, 1, 4)
    for window, equal in ((n, True), (n + 5, True), (n - 1, False)):
        narrow = Attention(12, 3, 1, 4, mask_rule=lambda q, k, w=window: masks.sliding_window_mask(q, k, w))
        narrow.load_state_dict(full.state_dict())
        assert torch.equal(narrow(x, torch.arange(n)), full(x, torch.arange(n))) == equal


@pytest.mark.unchecked
def test_bad_numbers_of_heads_are_named():
    with pytest.raises(ValueError, match="n_kv_heads=4"):
        gqa_conversion.mean_pool_kv(torch.zeros(12, 2), 6, 4)
    with pytest.raises(ValueError, match="n_heads=5"):
        gqa_conversion.mean_pool_kv(torch.zeros(12, 2), 5, 1)
