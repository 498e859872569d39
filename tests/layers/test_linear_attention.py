r"""Linear attention: running sums, the table of weights and the recurrence, each against a plain double loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers import linear_attention as la
from minillm.layers import rope


def feature(x: float) -> float:
    return x + 1 if x > 0 else math.exp(x)


def by_loops(q, k, v, mask):
    r"""One query at a time, in Python's numbers."""
    out = torch.zeros(q.shape[0], v.shape[1], dtype=torch.float64)
    for i in range(q.shape[0]):
        total = 0.0
        for j in range(k.shape[0]):
            if mask[i, j]:
                w = sum(feature(float(a)) * feature(float(b)) for a, b in zip(q[i], k[j], strict=True))
                out[i] += w * v[j]
                total += w
        out[i] /= total or 1.0
    return out


def drawn(seed, *shapes):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_three_forms_are_the_explicit_sum(n, d, e, seed):
    q, k, v = drawn(seed, (n, d), (n, d), (n, e))
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    want = by_loops(q, k, v, causal)
    torch.testing.assert_close(la.linear_attention(q, k, v), want)
    torch.testing.assert_close(la.linear_attention_table(q, k, v, causal), want)
    memory, normalizer, rows = torch.zeros(d, e).double(), torch.zeros(d).double(), []
    for t in range(n):
        memory, normalizer = la.memory_write(memory, normalizer, k[t : t + 1], v[t : t + 1])
        rows.append(la.memory_read(memory, normalizer, q[t : t + 1]))
    torch.testing.assert_close(torch.cat(rows), want)


def test_any_mask_in_the_table(fresh_seed):
    q, k, v = drawn(fresh_seed, (5, 3), (7, 3), (7, 2))
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(fresh_seed)) > 0.4
    mask[2] = False
    got = la.linear_attention_table(q, k, v, mask)
    torch.testing.assert_close(got, by_loops(q, k, v, mask))
    assert (got[2] == 0).all()
    everything = torch.ones(5, 7, dtype=torch.bool)
    torch.testing.assert_close(la.linear_attention_table(q, k, v), by_loops(q, k, v, everything))


def test_features_are_elu_plus_one(fresh_seed):
    (x,) = drawn(fresh_seed, (50,))
    x = torch.cat([20 * x, torch.tensor([0.0, -math.inf, 1e30, -1e30])]).requires_grad_()
    got = la.positive_features(x)
    torch.testing.assert_close(got, torch.nn.functional.elu(x) + 1)
    assert got[51] == 0 and got[:50].min() >= 0
    assert torch.autograd.grad(got[:50].sum(), x)[0].isfinite().all()


def test_the_delta_rule_writes_only_what_is_new(fresh_seed):
    k, v, other = drawn(fresh_seed, (1, 6), (1, 4), (3, 6))
    memory, normalizer = la.memory_write(torch.zeros(6, 4).double(), torch.zeros(6).double(), k, v, delta=True)
    torch.testing.assert_close(la.memory_read(memory, normalizer, k), v)
    torch.testing.assert_close(la.memory_read(memory, normalizer, other), v.expand(3, 4))  # one value is the average
    again, _ = la.memory_write(memory, normalizer, k, v, delta=True)
    torch.testing.assert_close(again, memory)
    plain, _ = la.memory_write(memory, normalizer, k, v)
    torch.testing.assert_close(plain, 2 * memory)
    assert (la.memory_read(torch.zeros(6, 4).double(), torch.zeros(6).double(), k) == 0).all()


def test_the_module_hides_padding_and_the_future(fresh_seed):
    torch.manual_seed(fresh_seed)
    layer = la.LinearAttention(12, 3, 4).double()
    x = torch.randn(3, 6, 12).double()
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [-1, -1, 0, 1, 2, 3], [0, 1, 2, 3, -1, -1]])
    out = layer(x, positions)
    torch.testing.assert_close(out[1, 2:], layer(x[1:2, 2:], torch.arange(4))[0])
    torch.testing.assert_close(out[2, :4], layer(x[2:, :4], torch.arange(4))[0])
    assert (out[1, :2] == 0).all() and (out[2, 4:] == 0).all()
    q, k, v = (
        (x[:1] @ p.weight.detach().T).view(6, 3, 4).transpose(0, 1) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    want = torch.stack([by_loops(q[h], k[h], v[h], causal) for h in range(3)], dim=1).flatten(1)
    torch.testing.assert_close(out[0], want @ layer.o_proj.weight.T)
    x[:, 5] += 1
    torch.testing.assert_close(layer(x, positions)[:, :5], out[:, :5])
    layer(x, positions).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    with pytest.raises(ValueError, match="cache"):
        layer(x, positions, None, object())
    layer(x, positions, rope.rope_angles(positions, 4))
