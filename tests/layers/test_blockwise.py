r"""Blocks merged against attention over everything at once; blocks by themselves against a block-diagonal mask."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers import masks, sdpa
from minillm.layers.blockwise import isolated_blocks, merge_attention, merged_blocks
from minillm.layers.tiles import PositionTable

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def look(q, k, v, mask=None):
    r"""Attention and the logarithm of its denominator, by torch's own functions."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v, torch.logsumexp(scores, -1)


def draw(seed, n, m, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(2, 3, t, 4, generator=g, dtype=torch.float64) for t in (n, m, m)], g


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([0.5, 30.0]))
def test_two_sets_of_keys_merge_into_one(n, first, second, seed, scale):
    (q, k, v), g = draw(seed, n, first + second, scale)
    mask = torch.rand(n, first + second, generator=g) < 0.5  # some rows see one side only, some nothing
    a, b = slice(0, first), slice(first, None)
    sides = [look(q, k[..., part, :], v[..., part, :], mask[:, part]) for part in (a, b)]
    out, lse = merge_attention(*sides[0], *sides[1])
    want_out, want_lse = look(q, k, v, mask)
    torch.testing.assert_close(out, want_out, **EXACT)
    torch.testing.assert_close(lse, want_lse, **EXACT)


def test_merging_knows_no_order(fresh_seed):
    (q, k, v), g = draw(fresh_seed, 5, 12)
    parts = [look(q, k[..., i::3, :], v[..., i::3, :]) for i in range(3)]
    one = merge_attention(*merge_attention(*parts[0], *parts[1]), *parts[2])
    other = merge_attention(*parts[2], *merge_attention(*parts[1], *parts[0]))
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, **EXACT)


def test_a_side_without_keys_changes_nothing_and_large_numbers_do_not_overflow():
    out = torch.tensor([[1.0, 2.0]])
    nothing = torch.zeros(1, 2), torch.tensor([-math.inf])
    for lse in (torch.tensor([5.0]), torch.tensor([1e4]), torch.tensor([-1e4])):
        for merged in (merge_attention(out, lse, *nothing), merge_attention(*nothing, out, lse)):
            assert torch.equal(merged[0], out) and torch.equal(merged[1], lse)
    both = merge_attention(*nothing, *nothing)
    assert torch.equal(both[0], torch.zeros(1, 2)) and both[1].item() == -math.inf
    doubled = merge_attention(out, torch.tensor([1e4]), 3 * out, torch.tensor([1e4]))
    torch.testing.assert_close(doubled[0], 2 * out)


def test_merged_blocks_are_exact_in_values_and_gradients(fresh_seed):
    (q, k, v), g = draw(fresh_seed, 22, 22)
    for x in (q, k, v):
        x.requires_grad_()
    left_padded = torch.stack([torch.arange(22) - 4, torch.arange(22)]).clamp(min=-1)
    grad_out = torch.randn(v.shape, generator=g, dtype=torch.float64)
    for rule in (masks.causal_mask, lambda a, b: masks.sliding_window_mask(a, b, 6), masks.bidirectional_mask):
        table = PositionTable(rule, left_padded, left_padded)
        want = sdpa.sdpa(q, k, v, rule(left_padded, left_padded)[:, None])
        grads = torch.autograd.grad(want, (q, k, v), grad_out)
        for block_len in (5, 11, 22, 40):
            got = merged_blocks(q, k, v, block_len, table)
            torch.testing.assert_close(got, want, **EXACT)
            for a, b in zip(torch.autograd.grad(got, (q, k, v), grad_out), grads, strict=True):
                torch.testing.assert_close(a, b, **EXACT)


def test_isolated_blocks_are_a_block_diagonal_mask(fresh_seed):
    (q, k, v), _ = draw(fresh_seed, 20, 20)
    positions = torch.arange(20)
    causal = masks.causal_mask(positions, positions)
    for block_len in (1, 6, 20):
        same_block = positions[:, None] // block_len == positions // block_len
        torch.testing.assert_close(isolated_blocks(q, k, v, block_len), sdpa.sdpa(q, k, v, same_block), **EXACT)
        got = isolated_blocks(q, k, v, block_len, PositionTable(masks.causal_mask, positions, positions))
        torch.testing.assert_close(got, sdpa.sdpa(q, k, v, same_block & causal), **EXACT)


def test_nothing_crosses_the_border_of_an_isolated_block(fresh_seed):
    (q, k, v), _ = draw(fresh_seed, 12, 12)
    changed = v.clone()
    changed[..., 5, :] += 1.0
    moved = (isolated_blocks(q, k, changed, 4) - isolated_blocks(q, k, v, 4)).abs().amax((0, 1, 3))
    assert (moved > 0).tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert ((merged_blocks(q, k, changed, 4) - merged_blocks(q, k, v, 4)).abs().amax((0, 1, 3)) > 0).all()
