r"""Shaw, Transformer-XL and recursive positions against loops that follow the papers term by term."""

import math
import random

import pytest
import torch

from minillm.layers import masks
from minillm.layers.attention import Attention
from minillm.layers.cache import KVCache
from minillm.layers.paths import plain_path
from minillm.layers.recorder import record
from minillm.layers.recursive import RecursivePosition, recursive_positions
from minillm.layers.shaw import ShawReading, clipped_distance, shaw_attention
from minillm.layers.sinusoidal import sinusoidal
from minillm.layers.transformer_xl import (
    TransformerXLReading,
    distance_sinusoids,
    relative_shift,
    xl_position_scores,
)


@pytest.fixture
def draw(fresh_seed):
    torch.manual_seed(fresh_seed)
    return random.Random(fresh_seed)


def softmax_loop(scores):
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def test_shaw_is_equations_3_and_4_in_a_loop(draw):
    batch, n_heads, q_len, kv_len, dh, furthest = 2, draw.randint(1, 3), 3, 7, draw.choice([2, 5]), draw.randint(1, 4)
    q, k, v = (torch.randn(batch, n_heads, n, dh).double() for n in (q_len, kv_len, kv_len))
    a, b = torch.randn(2, 2 * furthest + 1, dh).double()
    kv_positions = torch.stack([torch.arange(kv_len), torch.arange(kv_len) + draw.randint(1, 9)])
    q_positions = kv_positions[:, -q_len:]
    mask = masks.causal_mask(q_positions, kv_positions)[:, None]
    got = shaw_attention(q, k, v, q_positions, kv_positions, a, b, mask)
    for n in range(batch):
        for h in range(n_heads):
            for i in range(q_len):
                seen = [j for j in range(kv_len) if kv_positions[n, j] <= q_positions[n, i]]
                row = {j: max(-furthest, int(kv_positions[n, j] - q_positions[n, i])) + furthest for j in seen}
                scores = [float(q[n, h, i] @ (k[n, h, j] + a[row[j]])) / math.sqrt(dh) for j in seen]
                weights = softmax_loop(scores)
                want = sum(w * (v[n, h, j] + b[row[j]]) for w, j in zip(weights, seen, strict=True))
                torch.testing.assert_close(got[n, h, i], want)


def shaw(d_model, n_heads, n_kv_heads, dh, **choices):
    return Attention(d_model, n_heads, n_kv_heads, dh, reading=ShawReading(dh), **choices)


def transformer_xl(d_model, n_heads, n_kv_heads, dh, **choices):
    reading = TransformerXLReading(d_model, n_heads, dh)
    return Attention(d_model, n_heads, n_kv_heads, dh, reading=reading, **choices)


def test_clipped_distance_counts_from_the_furthest_before_the_query():
    assert clipped_distance(torch.tensor([5]), torch.arange(10), 2).tolist() == [[0, 0, 0, 0, 1, 2, 3, 4, 4, 4]]


def test_shaw_without_vectors_is_plain_attention(draw):
    q, k, v = torch.randn(3, 1, 2, 6, 4)
    zeros, positions = torch.zeros(5, 4), torch.arange(6)
    got = shaw_attention(q, k, v, positions, positions, zeros, zeros)
    torch.testing.assert_close(got, torch.nn.functional.scaled_dot_product_attention(q, k, v))


def test_xl_scores_are_the_four_terms_in_a_loop(draw):
    d_model, n_heads, dh, seq_len = 8, draw.randint(1, 3), draw.choice([2, 6]), 6
    reading = TransformerXLReading(d_model, n_heads, dh)
    module = Attention(d_model, n_heads, n_heads, dh, reading=reading).double()
    with torch.no_grad():
        reading.content_bias.normal_()
        reading.position_bias.normal_()
    x, positions = torch.randn(1, seq_len, d_model).double(), torch.arange(seq_len) + draw.randint(0, 50)
    with record() as tape, torch.no_grad():
        module(x, positions)
    weights = tape["attn_weights"][0][0]
    module.requires_grad_(False)
    q, k = ((x[0] @ w.T).view(seq_len, n_heads, dh) for w in (module.q_proj.weight, module.k_proj.weight))
    for h in range(n_heads):
        u, w = reading.content_bias[h], reading.position_bias[h]
        for i in range(seq_len):
            scores = []
            for j in range(i + 1):
                sinusoid = [f((i - j) / 10000 ** (2 * c / d_model)) for c in range(4) for f in (math.sin, math.cos)]
                r = (reading.r_proj.weight @ torch.tensor(sinusoid).double()).view(n_heads, dh)[h]
                terms = (q[i, h] @ k[j, h], q[i, h] @ r, u @ k[j, h], w @ r)
                scores.append(float(sum(terms)) / math.sqrt(dh))
            torch.testing.assert_close(weights[h, i, : i + 1], torch.tensor(softmax_loop(scores)).double(),
                                       rtol=1e-5, atol=1e-6)
            assert weights[h, i, i + 1 :].abs().max().item() == 0 if i + 1 < seq_len else True


def test_relative_shift_picks_what_the_index_picks(draw):
    kv_len = draw.randint(2, 9)
    q_len = draw.randint(1, kv_len)
    n_heads, dh = 2, 3
    q, r, w = torch.randn(2, n_heads, q_len, dh), torch.randn(n_heads, kv_len, dh), torch.randn(n_heads, dh)
    distance = torch.arange(kv_len - q_len, kv_len)[:, None] - torch.arange(kv_len)  # r[:, n] is for distance n
    by_index = xl_position_scores(q, r, distance.clamp(min=0), w)
    furthest_first = (q + w[:, None]) @ r.flip(1).transpose(-2, -1)
    seen = distance >= 0
    torch.testing.assert_close(relative_shift(furthest_first)[..., seen], by_index[..., seen])


def test_distance_sinusoids_know_the_sign():
    d = torch.arange(0, 40)
    ahead, behind = distance_sinusoids(-d, 6), distance_sinusoids(d, 6)
    torch.testing.assert_close(behind, sinusoidal(d, 6))
    torch.testing.assert_close(ahead[:, 0::2], -behind[:, 0::2])
    torch.testing.assert_close(ahead[:, 1::2], behind[:, 1::2])


@pytest.mark.parametrize("kind", [shaw, transformer_xl])
def test_cached_is_uncached_in_any_chunks_and_with_padding(kind, draw):
    d_model, n_kv_heads, dh, seq_len = 12, draw.choice([1, 2]), 4, 11
    module = kind(d_model, 4, n_kv_heads, dh, qkv_bias=draw.random() < 0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    x, n_padding = torch.randn(2, seq_len, d_model), draw.randint(1, 4)
    count = torch.arange(seq_len)
    positions = torch.stack([count, (count - n_padding).clamp(min=-1)])
    with torch.no_grad():
        whole = module(x, positions)
        with plain_path():
            torch.testing.assert_close(module(x, positions), whole, rtol=1e-4, atol=1e-5)
        alone = module(x[1:, n_padding:], count[: seq_len - n_padding])
        shifted = module(x[:1], count + 1000)
        cache, pieces, start = KVCache(2, n_kv_heads, seq_len, dh), [], 0
        while start < seq_len:
            end = start + draw.randint(1, seq_len - start)
            pieces.append(module(x[:, start:end], positions[:, start:end], cache=cache))
            start = end
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, whole[1:, n_padding:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shifted, whole[:1], rtol=1e-4, atol=1e-4)  # only distances count


@pytest.mark.parametrize("kind", [shaw, transformer_xl])
def test_order_counts_and_every_parameter_learns(kind, draw):
    module = kind(8, 2, 2, 4, mask_rule=masks.bidirectional_mask)
    x, positions = torch.randn(1, 6, 8), torch.arange(6)
    turned = module(x.flip(1), positions).flip(1)
    assert not torch.allclose(module(x, positions), turned, atol=1e-4)
    module(x, positions).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    with pytest.raises(ValueError, match="n_kv_heads=2"):
        kind(8, 3, 2, 4)


def test_shaw_refuses_a_distance_of_zero():
    with pytest.raises(ValueError, match="max_distance=0"):
        ShawReading(4, max_distance=0)


def test_recursive_positions_follow_the_recurrence(draw):
    module = RecursivePosition(draw.choice([3, 8]))
    positions = torch.tensor([[0, 7, 3], [-1, 2, 5]])
    got = module(positions)
    for position, vector in zip(positions.flatten().tolist(), got.flatten(0, 1), strict=True):
        want = module.start
        for _ in range(max(position, 0)):
            want = torch.tanh(torch.nn.functional.linear(want, module.weight, module.bias))
        torch.testing.assert_close(vector, want)
    torch.testing.assert_close(module(positions[0, 1:2])[0], got[0, 1])  # the same in a cached step
    got.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())
    with pytest.raises(ValueError, match="n_positions=0"):
        recursive_positions(module.start, module.weight, module.bias, 0)
