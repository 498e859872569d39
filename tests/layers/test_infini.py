r"""Infini-attention: the recurrence over segments against masks, and both against a loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers import infini, rope


def by_loops(q, k, v, gate, segment_len):
    r"""One query of one head at a time: a softmax over its segment, a feature-weighted mean of all earlier segments."""

    def feature(x):
        return torch.nn.functional.elu(x) + 1

    out = torch.zeros_like(v)
    for h in range(q.shape[0]):
        share = 1 / (1 + math.exp(-float(gate[h])))
        for i in range(q.shape[1]):
            start = i - i % segment_len
            scores = k[h, start : i + 1] @ q[h, i] / math.sqrt(q.shape[2])
            local = (scores.exp() / scores.exp().sum()) @ v[h, start : i + 1]
            weights = feature(k[h, :start]) @ feature(q[h, i])
            remembered = (weights / weights.sum()) @ v[h, :start] if start else torch.zeros_like(local)
            out[h, i] = share * remembered + (1 - share) * local
    return out


def drawn(seed, h, n, d):
    g = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, h, n, d, generator=g, dtype=torch.float64)
    return q, k, v, torch.randn(h, generator=g).double()


@given(st.integers(1, 3), st.integers(1, 11), st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**31))
def test_recurrence_and_masks_are_the_loop(h, n, d, segment_len, seed):
    q, k, v, gate = drawn(seed, h, n, d)
    want = by_loops(q, k, v, gate, segment_len)
    for form in (infini.infini_attention, infini.infini_masked):
        torch.testing.assert_close(form(q[None], k[None], v[None], gate, segment_len)[0], want)


def test_one_segment_with_a_closed_gate_is_softmax_attention(fresh_seed):
    q, k, v, _ = drawn(fresh_seed, 2, 7, 4)
    gate = torch.full((2,), -100.0).double()
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(infini.infini_attention(q[None], k[None], v[None], gate, 7)[0], want)


def test_the_delta_rule_is_the_paper_s_equation(fresh_seed):
    q, k, v, gate = drawn(fresh_seed, 1, 9, 4)
    share, segment_len = float(gate.sigmoid()), 3
    memory, normalizer = torch.zeros(4, 4).double(), torch.zeros(4).double()
    want = by_loops(q, k, v, torch.full((1,), -100.0), segment_len)[0] * (1 - share)
    for start in range(0, 9, segment_len):
        rows = range(start, start + segment_len)
        asked, found = (torch.nn.functional.elu(x[0]) + 1 for x in (q, k))
        updates = []
        for i in rows:
            if start:
                want[i] += share * (memory.T @ asked[i]) / (normalizer @ asked[i])
            known = (memory.T @ found[i]) / (normalizer @ found[i]) if start else torch.zeros(4).double()
            updates.append(torch.outer(found[i], v[0, i] - known))
        memory, normalizer = memory + sum(updates), normalizer + sum(found[i] for i in rows)
    got = infini.infini_attention(q[None], k[None], v[None], gate, segment_len, delta=True)[0, 0]
    torch.testing.assert_close(got, want)
    assert (got - infini.infini_attention(q[None], k[None], v[None], gate, segment_len)[0, 0]).abs().max() > 1e-3


def test_the_module_rotates_only_what_the_softmax_sees(fresh_seed):
    torch.manual_seed(fresh_seed)
    layer = infini.InfiniAttention(12, 3, 4, 3).double()
    torch.nn.init.normal_(layer.gate)
    x = torch.randn(2, 8, 12).double()
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [-1, -1, 0, 1, 2, 3, 4, 5]])
    angles = rope.rope_angles(positions, 4).double()
    out = layer(x, positions, angles)
    torch.testing.assert_close(out[1, 2:], layer(x[1:, 2:], torch.arange(6), angles[1, 2:])[0])
    assert (out[1, :2] == 0).all()
    with torch.no_grad():
        layer.gate.fill_(100.0)  # memory only: the rotation must not matter
    torch.testing.assert_close(layer(x, positions, angles), layer(x, positions, None))
    with torch.no_grad():
        layer.gate.fill_(-100.0)
    assert (layer(x, positions, angles) - layer(x, positions, None)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="cache"):
        layer(x, positions, None, object())


@pytest.mark.unchecked
def test_segments_have_a_token():
    with pytest.raises(ValueError, match="segment_len=0"):
        infini.infini_attention(*[torch.zeros(1, 1, 2, 2)] * 3, torch.zeros(1), 0)
    with pytest.raises(ValueError, match="segment_len=0"):
        infini.InfiniAttention(4, 1, 4, 0)
