r"""Latent attention: both forms against a loop over tokens, the module against itself with a cache."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers import masks, mla, recorder, rope
from minillm.layers.latent_cache import LatentCache


def by_loops(q, q_rope, latent, k_rope, w_uk, w_uv, mask, scale):
    r"""One query of one head at a time, with keys and values made one by one."""
    n_batch, n_heads, q_len, head_dim = q.shape
    out = torch.zeros(n_batch, n_heads, q_len, w_uv.shape[1], dtype=torch.float64)
    for b in range(n_batch):
        for h in range(n_heads):
            for i in range(q_len):
                seen = [j for j in range(latent.shape[1]) if mask[i, j]]
                scores = [
                    scale * float(q[b, h, i] @ (w_uk[h] @ latent[b, j]) + q_rope[b, h, i] @ k_rope[b, j]) for j in seen
                ]
                total = sum(math.exp(s) for s in scores)
                for s, j in zip(scores, seen, strict=True):
                    out[b, h, i] += math.exp(s) / total * (w_uv[h] @ latent[b, j])
    return out


def drawn(seed, sizes):
    r"""Random float64 inputs of mla_naive for sizes (B, H, Tq, Tk, Dh, Dr, Dv, R)."""
    b, h, q_len, kv_len, d, r, v, rank = sizes
    g = torch.Generator().manual_seed(seed)
    shapes = [(b, h, q_len, d), (b, h, q_len, r), (b, kv_len, rank), (b, kv_len, r), (h, d, rank), (h, v, rank)]
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


@given(st.lists(st.integers(1, 4), min_size=8, max_size=8), st.integers(0, 2**31))
def test_both_forms_are_the_sum_over_tokens(sizes, seed):
    inputs = drawn(seed, sizes)
    q_len, kv_len = sizes[2], sizes[3]
    mask = torch.ones(q_len, kv_len, dtype=torch.bool).tril(diagonal=max(kv_len - q_len, 0))
    want = by_loops(*inputs, mask, 1 / math.sqrt(sizes[4] + sizes[5]))
    torch.testing.assert_close(mla.mla_naive(*inputs, mask), want)
    torch.testing.assert_close(mla.mla_absorb(*inputs, mask), want)
    want = by_loops(*inputs, mask, 0.7)
    torch.testing.assert_close(mla.mla_naive(*inputs, mask, scale=0.7), want)
    torch.testing.assert_close(mla.mla_absorb(*inputs, mask, scale=0.7), want)


def test_both_forms_take_a_bias_and_give_the_same_gradients(fresh_seed):
    inputs = [part.requires_grad_() for part in drawn(fresh_seed, (2, 3, 5, 5, 4, 2, 6, 7))]
    attn_bias = torch.randn(3, 5, 5, dtype=torch.float64)
    grads = []
    for form in (mla.mla_naive, mla.mla_absorb):
        out = form(*inputs, None, attn_bias)
        grads.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for naive, absorbed in zip(*grads, strict=True):
        torch.testing.assert_close(naive, absorbed)
    assert (mla.mla_naive(*inputs) - grads[0][0]).abs().max() > 1e-3, "the bias is used"


def test_a_full_rank_latent_is_multi_head_attention(fresh_seed):
    r"""With the token itself as latent and no rotated part, MLA is MHA: torch's own attention is the oracle."""
    q, _, latent, _, w_uk, w_uv = drawn(fresh_seed, (2, 3, 5, 5, 4, 2, 4, 12))
    none = torch.zeros(2, 3, 5, 0, dtype=torch.float64)
    k, v = (torch.stack([latent @ w[h].T for h in range(3)], dim=1) for w in (w_uk, w_uv))
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask = masks.causal_mask(torch.arange(5), torch.arange(5))
    for form in (mla.mla_naive, mla.mla_absorb):
        torch.testing.assert_close(form(q, none, latent, none[:, 0], w_uk, w_uv, mask), want)


@pytest.fixture(params=[None, 10])
def layer(request, fresh_seed):
    torch.manual_seed(fresh_seed)
    made = mla.MultiHeadLatentAttention(24, 3, 6, 4, 5, 8, request.param, scale=0.3, rope_amplitude=1.2).double()
    for norm in [made.kv_norm] + ([made.q_norm] if request.param else []):
        torch.nn.init.normal_(norm.weight)
    return made


def test_the_module_is_its_equations(layer, fresh_seed):
    torch.manual_seed(fresh_seed + 1)
    x, positions = torch.randn(2, 7, 24).double(), torch.arange(7)
    c = x @ layer.kv_down.weight[:8].T
    c = c / (c.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.kv_norm.weight
    if hasattr(layer, "q_proj"):
        wide = x @ layer.q_proj.weight.T
    else:
        short = x @ layer.q_down.weight.T
        wide = (short / (short.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.q_norm.weight)
        wide = wide @ layer.q_up.weight.T
    turn = torch.polar(torch.ones(7, 2).double(), positions[:, None] * torch.tensor([1.0, 0.01]).double())

    def turned(y):
        pair = torch.complex(y[..., :2], y[..., 2:]) * turn
        return 1.2 * torch.cat([pair.real, pair.imag], dim=-1)

    q = wide.view(2, 7, 3, 10).transpose(1, 2)
    kv = (c @ layer.kv_up.weight.T).view(2, 7, 3, 11).transpose(1, 2)
    k_rope = turned(x @ layer.kv_down.weight[8:].T)[:, None].expand(2, 3, 7, 4)
    out = torch.nn.functional.scaled_dot_product_attention(
        torch.cat([q[..., :6], turned(q[..., 6:])], -1), torch.cat([kv[..., :6], k_rope], -1), kv[..., 6:],
        is_causal=True, scale=0.3)
    want = out.transpose(1, 2).reshape(2, 7, 15) @ layer.o_proj.weight.T
    got = layer(x, positions, rope.rope_angles(positions, 4).double())
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("chunks", [(7,), (1,) * 7, (3, 1, 2, 1)])
def test_cached_is_uncached_with_padding(layer, chunks, fresh_seed):
    torch.manual_seed(fresh_seed + 2)
    x = torch.randn(3, 7, 24).double()
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [-1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, -1, -1, -1]])
    angles = rope.rope_angles(positions, 4).double()
    with recorder.record() as tape:
        want = layer(x, positions, angles)
    cache, start, parts = layer.new_cache(3, 7), 0, []
    for size in chunks:
        part = slice(start, start + size)
        parts.append(layer(x[:, part], positions[:, part], angles[:, part], cache))
        start += size
    assert cache.length == 7
    torch.testing.assert_close(torch.cat(parts, dim=1), want)
    assert (want[1, :2] == 0).all() and (want[1, 2:].abs().sum(-1) > 0).all()
    sums = tape["attn_weights"][0].sum(-1)
    torch.testing.assert_close(sums, (positions >= 0).double()[:, None].expand(3, 3, 7))


def test_rules_reach_the_scores(fresh_seed):
    torch.manual_seed(fresh_seed)
    x, positions = torch.randn(1, 6, 8), torch.arange(6)
    layer = mla.MultiHeadLatentAttention(
        8, 2, 4, 2, 4, 6, mask_rule=lambda q, k: masks.sliding_window_mask(q, k, 3),
        bias_rule=lambda q, k: -(q[:, None] - k).abs().float().expand(2, -1, -1))
    torch.nn.init.zeros_(layer.q_proj.weight)  # equal scores: what is left is the bias
    with recorder.record() as tape:
        layer(x, positions)
    weights = tape["attn_weights"][0]
    assert torch.equal(weights[0, 0] > 0, masks.sliding_window_mask(positions, positions, 3))
    torch.testing.assert_close(weights[0, :, 5, 5] / weights[0, :, 5, 4], torch.full((2,), math.e))


def test_the_cache_keeps_rank_plus_rope_floats(layer):
    cache = layer.new_cache(2, 9, torch.bfloat16)
    assert cache.floats_per_token == 8 + 4
    latent = torch.randn(2, 3, 8)
    got, k_rope, positions = cache.append(latent, torch.randn(2, 3, 4), torch.arange(3))
    assert got.dtype == k_rope.dtype == torch.float32 and torch.equal(got, latent.bfloat16().float())
    assert positions.tolist() == [[0, 1, 2]] * 2


@pytest.mark.unchecked
def test_what_does_not_fit_is_named():
    cache = LatentCache(2, 3, 4, 2)
    with pytest.raises(ValueError, match="k_rope"):
        cache.append(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4), torch.arange(1))
    with pytest.raises(ValueError, match="capacity=3"):
        cache.append(torch.zeros(2, 4, 4), torch.zeros(2, 4, 2), torch.arange(4))
    assert cache.length == 0
    with pytest.raises(ValueError, match="kv_rank=0"):
        LatentCache(1, 1, 0, 2)
    with pytest.raises(ValueError, match="rope_dim=3"):
        mla.MultiHeadLatentAttention(8, 2, 4, 3, 4, 6)
