r"""Flash attention against sdpa, a loop, torch and numerical gradients; its memory, counted tensor by tensor."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from minillm.course.ledger import MemoryLedger, kept_for_backward
from minillm.layers import alibi, masks, sdpa
from minillm.layers.flash import attention_traffic, flash_attention, flash_forward, flash_with_lse
from minillm.layers.tiles import PositionTable

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def draw(seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    b, h, tq, tk, dh, dv = (int(torch.randint(1, n, (), generator=g)) for n in (3, 4, 24, 24, 6, 6))
    q, k, v = (
        torch.randn(b, h, t, d, generator=g, dtype=dtype).requires_grad_() for t, d in ((tq, dh), (tk, dh), (tk, dv))
    )
    return g, q, k, v


def one_query_at_a_time(q, k, v, mask, bias, scale):
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    lse = torch.full(q.shape[:-1], -math.inf, dtype=q.dtype)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).reshape(-1, 3).tolist():
        seen = [j for j in range(k.shape[2]) if mask is None or mask[b, h, i, j]]
        exps = [
            math.exp(
                float((q[b, h, i] @ k[b, h, j]).detach()) * scale + (0 if bias is None else float(bias[b, h, i, j]))
            )
            for j in seen
        ]
        for e, j in zip(exps, seen, strict=True):
            out[b, h, i] += e / sum(exps) * v[b, h, j].detach()
        if seen:
            lse[b, h, i] = math.log(sum(exps))
    return out, lse


def test_forward_equals_the_loop(fresh_seed):
    for offset in range(6):
        g, q, k, v = draw(fresh_seed + offset)
        shape = (*q.shape[:3], k.shape[2])
        mask = torch.rand(shape, generator=g) < 0.4
        bias = torch.randn(shape, generator=g, dtype=torch.float64)
        for m, a, s in ((None, None, None), (mask, None, None), (None, bias, None), (mask, bias, 0.3)):
            want = one_query_at_a_time(q, k, v, m, a, q.shape[-1] ** -0.5 if s is None else s)
            for tile_len in (1, 5, 64):
                out, lse = flash_forward(q, k, v, m, a, s, tile_len)
                torch.testing.assert_close(out, want[0], **EXACT)
                torch.testing.assert_close(lse, want[1], **EXACT)


RULES = {
    "causal": masks.causal_mask,
    "sliding": partial(masks.sliding_window_mask, window=5),
    "prefix": partial(masks.prefix_mask, prefix_len=4),
    "padding": masks.bidirectional_mask,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("biased", [False, True])
def test_values_and_gradients_equal_sdpa_under_every_mask(rule, biased, fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    q, k, v = (torch.randn(2, 3, 21, d, generator=g, dtype=torch.float64).requires_grad_() for d in (4, 4, 5))
    positions = torch.stack([torch.arange(21) - 3, torch.where(torch.arange(21) < 18, torch.arange(21), -1)])
    positions = positions.clamp(min=-1)  # padded on the left, and on the right
    bias = torch.randn(3, 21, 21, generator=g, dtype=torch.float64).requires_grad_() if biased else None
    inputs = (q, k, v, bias) if biased else (q, k, v)
    grad_out = torch.randn(2, 3, 21, 5, generator=g, dtype=torch.float64)
    table = rule(positions, positions)[:, None]
    want = sdpa.sdpa(q, k, v, table, bias)
    want_grads = torch.autograd.grad(want, inputs, grad_out)
    for mask in (table, PositionTable(rule, positions, positions)):
        for tile_len in (4, 7, 32):
            got = flash_attention(q, k, v, mask, bias, tile_len=tile_len)
            torch.testing.assert_close(got, want, **EXACT)
            for a, b in zip(torch.autograd.grad(got, inputs, grad_out), want_grads, strict=True):
                torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("shape", [(1, 11), (9, 1), (3, 1, 11), (2, 1, 1, 1), (11,)])
def test_a_bias_that_broadcasts_gets_its_gradient_summed(shape, fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    q, k, v = (torch.randn(2, 3, t, 4, generator=g, dtype=torch.float64) for t in (9, 11, 11))
    bias = torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()
    grad_out = torch.randn(2, 3, 9, 4, generator=g, dtype=torch.float64)
    grads = [
        torch.autograd.grad(f(q, k, v, None, bias), bias, grad_out)[0]
        for f in (sdpa.sdpa, partial(flash_attention, tile_len=4))
    ]
    torch.testing.assert_close(*grads, **EXACT)


def test_numerical_gradients_also_through_the_log_sum_exp(fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    q, k, v = (torch.randn(2, t, 3, generator=g, dtype=torch.float64).requires_grad_() for t in (4, 5, 5))
    bias = torch.randn(2, 4, 5, generator=g, dtype=torch.float64).requires_grad_()
    mask = torch.rand(4, 5, generator=g) < 0.7
    mask[:, 0] = True
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias: flash_with_lse(q, k, v, mask, bias, 0.7, tile_len=2), (q, k, v, bias)
    )


def test_alibi_as_a_rule_equals_alibi_as_a_table(fresh_seed):
    g, positions, slopes = torch.Generator().manual_seed(fresh_seed), torch.arange(19), alibi.alibi_slopes(4)
    q, k, v = (torch.randn(2, 4, 19, 8, generator=g) for _ in range(3))
    table = PositionTable(lambda a, b: alibi.alibi_bias(a, b, slopes), positions, positions)
    causal = masks.causal_mask(positions, positions)
    want = sdpa.sdpa(q, k, v, causal, alibi.alibi_bias(positions, positions, slopes))
    torch.testing.assert_close(flash_attention(q, k, v, causal, table, tile_len=5), want)


def test_a_rule_with_parameters_is_refused_because_it_would_learn_nothing():
    slopes = alibi.alibi_slopes(2).requires_grad_()
    table = PositionTable(lambda a, b: alibi.alibi_bias(a, b, slopes), torch.arange(3), torch.arange(3))
    x = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="attn_bias is a rule with parameters"):
        flash_attention(x, x, x, attn_bias=table)
    with torch.no_grad():
        assert flash_attention(x, x, x, attn_bias=table).shape == x.shape


def test_a_query_that_sees_nothing_gives_zeros_and_clean_gradients(fresh_seed):
    g, q, k, v = draw(fresh_seed)
    mask = torch.rand(q.shape[2], k.shape[2], generator=g) < 0.5
    mask[0] = False
    out, lse = flash_with_lse(q, k, v, mask, tile_len=4)
    assert (out[..., 0, :] == 0).all() and (lse[..., 0] == -math.inf).all()
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v)) and (q.grad[..., 0, :] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_logits_do_not_overflow(dtype, fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    q, k = (200 * torch.randn(1, 2, 40, 16, generator=g) for _ in range(2))
    q, k, v = q.to(dtype), k.to(dtype), torch.randn(1, 2, 40, 16, generator=g).to(dtype)
    scores = (q.double() @ k.double().mT) / 4
    assert scores.abs().max() > 1e4 and math.isinf(torch.tensor(1e4).exp())
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = flash_attention(q, k, v, tile_len=8)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), scores.softmax(-1) @ v.double(), rtol=2e-2, atol=2e-2)
    out.float().sum().backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.dtype == dtype for x in (q, k, v))


def test_equals_torch_s_own_kernel(fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    q, k, v = (torch.randn(2, 4, 130, 32, generator=g) for _ in range(3))
    p = torch.arange(130)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(flash_attention(q, k, v, PositionTable(masks.causal_mask, p, p)), want)


def measured(attend, seq_len, mask):
    q, k, v = (torch.randn(1, 2, seq_len, 16).requires_grad_() for _ in range(3))
    with kept_for_backward() as kept, MemoryLedger() as ledger:
        attend(q, k, v, mask).sum().backward()
    return ledger, kept


@pytest.mark.parametrize("name", [None, "causal", "sliding", "padding"])
def test_no_table_of_all_pairs_is_ever_alive(name):
    peaks, keeps = [], []
    for seq_len in (256, 512):
        p = torch.arange(seq_len)
        mask = None if name is None else PositionTable(RULES[name], p, p)
        ledger, kept = measured(partial(flash_attention, tile_len=32), seq_len, mask)
        # The largest tensor is an input-sized one; a table for one head would be seq_len / 32 times that.
        assert max(ledger.largest, kept["largest"]) <= 2 * seq_len * 16
        peaks.append(ledger.peak_bytes)
        keeps.append(kept["bytes"])
    assert peaks[1] < 2.2 * peaks[0] and keeps[1] < 2.2 * keeps[0], "linear in T"


def test_the_ledger_does_see_the_table_of_plain_attention():
    p = torch.arange(256)
    small, large = (measured(sdpa.sdpa, t, masks.causal_mask(p[:t], p[:t])) for t in (128, 256))
    assert large[0].largest == 2 * 256 * 256 and large[1]["largest"] == 2 * 256 * 256
    assert large[0].peak_bytes > 3.5 * small[0].peak_bytes and large[1]["bytes"] > 3.5 * small[1]["bytes"]


def test_flops_are_those_of_plain_attention_and_causal_tiles_save_nearly_half():
    q, k, v = (torch.randn(1, 2, 256, 16) for _ in range(3))
    p = torch.arange(256)
    counts = {}
    for name, attend in {
        "plain": lambda: sdpa.sdpa(q, k, v),
        "flash": lambda: flash_attention(q, k, v, tile_len=32),
        "causal": lambda: flash_attention(q, k, v, PositionTable(masks.causal_mask, p, p), tile_len=32),
    }.items():
        with FlopCounterMode(display=False) as counter:
            attend()
        counts[name] = counter.get_total_flops()
    assert counts["plain"] == counts["flash"] == 2 * 2 * 2 * 256 * 256 * 16
    assert counts["causal"] / counts["plain"] == 36 / 64  # 8 * 9 / 2 of 8 * 8 tiles


class Loads(TorchDispatchMode):
    r"""Counts the numbers in the tiles that are cut out of q, k and v."""

    def __init__(self, *watched):
        super().__init__()
        self.watched, self.numbers = {x.untyped_storage().data_ptr() for x in watched}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.slice.Tensor and args[0].untyped_storage().data_ptr() in self.watched:
            self.numbers += out.numel()
        return out


def test_traffic_is_what_the_loops_load(fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    seq_len, head_dim, tile_len = 96, 8, 16
    q, k, v = (torch.randn(3, seq_len, head_dim, generator=g) for _ in range(3))
    with Loads(k, v) as loads:
        out, _ = flash_forward(q, k, v, tile_len=tile_len)
    # Queries are cut afresh for every tile in this code; a kernel keeps them, so they count once, as the output does.
    wanted = attention_traffic(seq_len, head_dim, 3, bytes_per_number=4, tile_len=tile_len)
    assert 4 * (loads.numbers + q.numel() + out.numel()) == wanted
    plain = attention_traffic(seq_len, head_dim, 3)
    assert plain == 4 * 3 * (4 * seq_len * seq_len + 4 * seq_len * head_dim)
