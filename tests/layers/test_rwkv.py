r"""wkv: step by step, in parallel and as written in the paper; and at exponents that overflow."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers import rwkv


def by_the_paper(k, v, decay, bonus):
    r"""Two sums of exponentials for each token and channel, in Python's numbers."""
    out = torch.zeros_like(v)
    for t in range(k.shape[0]):
        for c in range(k.shape[1]):
            weights = [math.exp(-(t - 1 - i) * float(decay[c]) + float(k[i, c])) for i in range(t)]
            weights.append(math.exp(float(bonus[c] + k[t, c])))
            out[t, c] = sum(w * float(v[i, c]) for i, w in enumerate(weights)) / sum(weights)
    return out


def drawn(seed, n, c):
    g = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, n, c, generator=g, dtype=torch.float64)
    return 2 * k, v, 2 * torch.rand(c, generator=g).double(), torch.randn(c, generator=g).double()


@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**31))
def test_both_forms_are_the_paper_s_sums(n, c, seed):
    inputs = drawn(seed, n, c)
    want = by_the_paper(*inputs)
    torch.testing.assert_close(rwkv.wkv_recurrent(*inputs), want)
    torch.testing.assert_close(rwkv.wkv_parallel(*inputs), want)


def test_large_exponents_do_not_overflow(fresh_seed):
    k, v, decay, bonus = (x.float() for x in drawn(fresh_seed, 12, 3))
    shifted = rwkv.wkv_recurrent(k, v, decay, bonus)
    for shift in (500.0, -500.0, 3e4):
        for form in (rwkv.wkv_recurrent, rwkv.wkv_parallel):
            got = form(k + shift, v, decay, bonus)
            assert got.isfinite().all()
            # adding a constant to all exponents changes nothing but the rounding of the keys themselves
            torch.testing.assert_close(got, shifted, rtol=0, atol=12 * abs(shift) * 2**-23)
    assert not by_ratio_of_sums(k + 500, v, decay, bonus).isfinite().all()


def by_ratio_of_sums(k, v, decay, bonus):
    r"""What one would write first: sums of exp, without the running maximum."""
    numerator = denominator = torch.zeros_like(v[0])
    out = []
    for key, value in zip(k, v, strict=True):
        now = (bonus + key).exp()
        out.append((numerator + now * value) / (denominator + now))
        numerator = (-decay).exp() * numerator + key.exp() * value
        denominator = (-decay).exp() * denominator + key.exp()
    return torch.stack(out)


def test_the_state_is_three_numbers_a_channel_and_can_be_carried(fresh_seed):
    k, v, decay, bonus = drawn(fresh_seed, 9, 4)
    want, state, rows = rwkv.wkv_recurrent(k, v, decay, bonus), None, []
    for t in range(9):
        out, state = rwkv.wkv_step(k[t], v[t], decay, bonus, state)
        rows.append(out)
        assert sum(part.numel() for part in state) == 3 * 4
    torch.testing.assert_close(torch.stack(rows), want)


def test_gradients_agree(fresh_seed):
    inputs = [x.requires_grad_() for x in drawn(fresh_seed, 6, 3)]
    grads = [
        torch.autograd.grad(form(*inputs).sin().sum(), inputs) for form in (rwkv.wkv_recurrent, rwkv.wkv_parallel)]
    for recurrent, parallel in zip(*grads, strict=True):
        torch.testing.assert_close(recurrent, parallel)


def test_the_module_is_its_equations_and_hides_padding(fresh_seed):
    torch.manual_seed(fresh_seed)
    layer = rwkv.RwkvTimeMix(6, n_layers=3, layer=1).double()
    x = torch.randn(3, 7, 6).double()
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [-1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, -1, -1, -1]])
    out = layer(x, positions)
    rows, before = [], torch.zeros(6).double()
    for now in x[0]:
        rows.append([share * now + (1 - share) * before for share in layer.mix])
        before = now
    r, k, v = (
        torch.stack([row[i] for row in rows]) @ proj.weight.T
        for i, proj in enumerate((layer.r_proj, layer.k_proj, layer.v_proj)))
    sums = by_the_paper(*(y.detach() for y in (k, v, layer.log_decay.exp(), layer.bonus)))
    want = (1 / (1 + (-r).exp())) * sums
    torch.testing.assert_close(out[0], want @ layer.o_proj.weight.T)
    torch.testing.assert_close(out[1, 2:], layer(x[1:2, 2:], torch.arange(5))[0])
    torch.testing.assert_close(out[2, :4], layer(x[2:, :4], torch.arange(4))[0])
    assert (out[1, :2] == 0).all() and (out[2, 4:] == 0).all()
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    with pytest.raises(ValueError, match="cache"):
        layer(x, positions, None, object())
