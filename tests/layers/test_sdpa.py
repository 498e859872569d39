r"""Attention against a loop over single queries and against torch; the fused twin against the plain one."""

import math

import pytest
import torch
import torch.nn.functional as F

from minillm.layers.fused import fused_sdpa
from minillm.layers.sdpa import attention_weights, sdpa


def one_query_at_a_time(q, k, v, mask, bias, scale):
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if mask is None or mask[b, h, i, j]]
                scores = [
                    float(sum(q[b, h, i] * k[b, h, j])) * scale + (0 if bias is None else float(bias[b, h, i, j]))
                    for j in seen
                ]
                if seen:
                    exps = [math.exp(s - max(scores)) for s in scores]
                    for e, j in zip(exps, seen, strict=True):
                        out[b, h, i] += e / sum(exps) * v[b, h, j]
    return out


def draw(seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    b, h, tq, tk, dh, dv = (int(torch.randint(1, 6, (), generator=g)) for _ in range(6))
    q, k = (torch.randn(b, h, t, dh, generator=g, dtype=dtype) for t in (tq, tk))
    v = torch.randn(b, h, tk, dv, generator=g, dtype=dtype)
    mask = torch.rand(b, h, tq, tk, generator=g) < 0.6
    bias = torch.randn(b, h, tq, tk, generator=g, dtype=dtype)
    return q, k, v, mask, bias


@pytest.mark.parametrize("function", [sdpa, fused_sdpa])
@pytest.mark.parametrize("grad", [True, False])
def test_both_paths_equal_the_loop(function, grad, fresh_seed):
    for offset in range(8):
        q, k, v, mask, bias = draw(fresh_seed + offset)
        for m, a, s in [(None, None, None), (mask, None, None), (None, bias, None), (mask, bias, 0.3)]:
            want = one_query_at_a_time(q, k, v, m, a, q.shape[-1] ** -0.5 if s is None else s)
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(function(q, k, v, m, a, s), want, rtol=1e-9, atol=1e-9)


def test_equals_torch_in_low_precision(fresh_seed):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        q, k, v, mask, _ = draw(fresh_seed, dtype)
        mask[..., 0] = True  # torch leaves rows without keys undefined
        want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        got = sdpa(q, k, v, mask)
        assert got.dtype == dtype
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("function", [sdpa, fused_sdpa])
def test_a_query_that_sees_nothing_gives_zeros_and_clean_gradients(function, fresh_seed):
    q, k, v, mask, _ = draw(fresh_seed)
    mask[..., 0, :] = False
    for x in (q, k, v):
        x.requires_grad_(True)
    out = function(q, k, v, mask)
    assert torch.equal(out[..., 0, :], torch.zeros_like(out[..., 0, :]))
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))
    q2 = q.detach().clone().requires_grad_(True)
    one_query = torch.autograd.grad(sdpa(q2, k.detach(), v.detach(), mask).sum(), q2)[0]
    torch.testing.assert_close(q.grad, one_query)


def test_gradients_are_those_of_the_plain_path(fresh_seed):
    for offset in range(8):
        q, k, v, mask, bias = draw(fresh_seed + offset)
        mask[..., 0] = True
        square = mask[0, 0]  # as a causal mask comes: one for all heads
        for m, a, s in [(None, None, 0.7), (mask, None, None), (square, None, None), (None, bias[0], None),
                        (mask[:, :1], bias[0, 0], None), (square, bias, 0.3)]:
            got, want = (
                torch.autograd.grad(function(*leaves, m, None if a is None else leaf_bias, s).square().sum(),
                                    [*leaves, leaf_bias], materialize_grads=True, allow_unused=True)
                for function in (fused_sdpa, sdpa)
                for leaves, leaf_bias in [([x.clone().requires_grad_() for x in (q, k, v)],
                                           (bias if a is None else a).clone().requires_grad_())]
            )
            for one, other in zip(got, want, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_weights_are_distributions_over_what_is_seen(fresh_seed):
    q, k, _, mask, bias = draw(fresh_seed)
    weights = attention_weights(q, k, mask, bias)
    assert (weights[~mask] == 0).all() and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), mask.any(-1).to(weights.dtype))


def test_scaling_keeps_the_variance_of_scores_at_one(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    q, k = (torch.randn(400, 256, generator=generator) for _ in range(2))
    log_weights = attention_weights(q, k).log()
    scores = log_weights - log_weights.mean(-1, keepdim=True)
    assert 0.9 < float(scores.var()) < 1.1
