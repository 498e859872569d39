r"""Splitting, merging and repeating heads; multi-head attention against torch's own."""

import pytest
import torch
from torch import nn

from minillm.layers.heads import merge_heads, repeat_kv, split_heads
from minillm.layers.multi_head import cross_attention, multi_head_attention


def test_split_is_the_loop_and_merge_undoes_it(fresh_seed):
    torch.manual_seed(fresh_seed)
    b, t, h, dh = 2, 5, 3, 4
    x = torch.randn(b, t, h * dh)
    got = split_heads(x, h)
    for head in range(h):
        assert torch.equal(got[:, head], x[:, :, head * dh : (head + 1) * dh])
    assert torch.equal(merge_heads(got), x)
    with pytest.raises(ValueError, match="n_heads=5"):
        split_heads(x, 5)


def test_repeat_gives_neighbours_the_same_keys():
    x = torch.arange(2).view(1, 2, 1, 1)
    assert repeat_kv(x, 3).flatten().tolist() == [0, 0, 0, 1, 1, 1]


def test_multi_head_equals_torch_with_the_same_weights(fresh_seed):
    torch.manual_seed(fresh_seed)
    d, h, b, t, s = 12, 3, 2, 5, 7
    reference = nn.MultiheadAttention(d, h, bias=False, batch_first=True).double()
    w_q, w_k, w_v = reference.in_proj_weight.detach().chunk(3)
    w_o = reference.out_proj.weight.detach()
    x, memory = torch.randn(b, t, d).double(), torch.randn(b, s, d).double()
    causal = torch.ones(t, t, dtype=torch.bool).tril()
    want = reference(x, x, x, attn_mask=~causal, need_weights=False)[0]
    torch.testing.assert_close(multi_head_attention(x, w_q, w_k, w_v, w_o, h, causal), want)
    real = torch.arange(s) < torch.tensor([[4], [7]])
    want = reference(x, memory, memory, key_padding_mask=~real, need_weights=False)[0]
    torch.testing.assert_close(cross_attention(x, memory, w_q, w_k, w_v, w_o, h, real[:, None, None]), want)
