r"""Sinks: constant size, and equal to a model that is written out token by token with lists."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.caches import kv_bytes, sink_cache, sinks
from minillm.inference.generate import generate
from tests.inference.caches.models import CONFIGS, drawn_ids, model_of


@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 5), st.sampled_from([(), (2,), (2, 3)]))
def test_eviction_keeps_first_and_last(seq_len, n_sinks, window, batch):
    stored = torch.arange(seq_len * 2).view(seq_len, 2).expand(*batch, -1, -1)
    kept = [i for i in range(seq_len) if i < n_sinks or i >= seq_len - window]
    assert torch.equal(sinks.evict_with_sinks(stored, n_sinks, window), stored[..., kept, :])


@given(st.integers(0, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_the_mask_says_what_eviction_keeps(n_sinks, window, seed):
    positions = torch.arange(9)
    mask = sinks.sink_mask(positions, positions, n_sinks, window)
    for i in range(9):
        kept = sinks.evict_with_sinks(positions[: i + 1, None], n_sinks, window)[:, 0]
        # a sink that is still in the window is both
        assert positions[mask[i]].tolist() == [p for p in range(i + 1) if p < n_sinks or p > i - window]
        assert set(kept.tolist()) <= set(positions[mask[i]].tolist())
    padded = torch.tensor([-1, 0, 1, 2])
    seen = sinks.sink_mask(padded, padded, n_sinks, window)
    assert not seen[0].any() and not seen[:, 0].any()


def turned(vector, position, base=10000.0):
    r"""RoPE as multiplication by complex numbers."""
    half = len(vector) // 2
    pairs = torch.complex(vector[:half], vector[half:])
    angles = torch.tensor([position * base ** (-i / half) for i in range(half)], dtype=torch.float64)
    out = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([out.real, out.imag])


def streaming_oracle(model, token_ids, n_sinks, window):
    r"""Logits of one text, a token at a time: unrotated keys in lists, placed by their index among those kept."""
    config, group = model.config, model.config.n_heads // model.config.n_kv_heads
    slopes = [2.0 ** (-8 * (head + 1) / config.n_heads) for head in range(config.n_heads)]
    kept = [[] for _ in model.blocks]
    out = []
    for token in token_ids.tolist():
        x = model.tok_emb.weight[token]
        for block, pairs in zip(model.blocks, kept, strict=True):
            h, attn = block.attn_norm(x), block.attn
            q = (attn.q_proj.weight @ h).view(config.n_heads, -1)
            pairs.append(tuple((part.weight @ h).view(config.n_kv_heads, -1) for part in (attn.k_proj, attn.v_proj)))
            if len(pairs) > n_sinks + window:
                del pairs[n_sinks]
            here, mixed = len(pairs) - 1, []
            for head in range(config.n_heads):
                scores = []
                for place, (k, _) in enumerate(pairs):
                    asked, found = q[head], k[head // group]
                    if type(config.position).__name__ == "Rope":
                        asked, found = turned(asked, here), turned(found, place)
                    score = float(asked @ found) / math.sqrt(config.head_dim)
                    if type(config.position).__name__ == "Alibi":
                        score -= slopes[head] * (here - place)
                    scores.append(score)
                shares = [math.exp(score - max(scores)) for score in scores]
                mixed.append(sum(s / sum(shares) * v[head // group] for s, (_, v) in zip(shares, pairs, strict=True)))
            x = x + attn.o_proj.weight @ torch.cat(mixed)
            x = x + block.ffn(block.ffn_norm(x))
        out.append(model.lm_head(model.final_norm(x)))
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["MHA", "MQA", "GQA", "GQA, ALiBi", "MHA, no positions"])
def test_streaming_is_the_model_written_out_with_lists(kind, fresh_seed):
    draw, model, token_ids = random.Random(fresh_seed), model_of(kind), drawn_ids(fresh_seed, 2, 30)
    n_sinks, window = draw.randint(0, 4), draw.randint(1, 6)
    caches = sink_cache.sink_caches(model, 2, n_sinks, window)
    with torch.no_grad():
        got = torch.cat([model(token_ids[:, i : i + 1], cache=caches) for i in range(30)], dim=1)
        want = torch.stack([streaming_oracle(model, row, n_sinks, window) for row in token_ids])
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)  # angles in float32


def test_without_positions_it_is_the_whole_text_under_a_mask(fresh_seed):
    model, token_ids = model_of("MHA, no positions"), drawn_ids(fresh_seed, 2, 30)
    caches = sink_cache.sink_caches(model, 2, 2, 5)
    rules = [block.attn.mask_rule for block in model.blocks]
    with torch.no_grad():
        got = torch.cat([model(token_ids[:, i : i + 1], cache=caches) for i in range(30)], dim=1)
        try:
            for block in model.blocks:
                block.attn.mask_rule = lambda q, kv: sinks.sink_mask(q, kv, 2, 5)
            want = model(token_ids)
        finally:
            for block, rule in zip(model.blocks, rules, strict=True):
                block.attn.mask_rule = rule
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_latent_attention_streams_with_distances_of_the_kept(fresh_seed):
    r"""What is kept, placed at 0, 1, 2, ... and read without a cache, gives the last token's output: one layer."""
    attn = model_of("MLA").blocks[0].attn
    torch.manual_seed(fresh_seed)
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    caches = sink_cache.sink_caches(model_of("MLA"), 1, 2, 4)
    for i in range(20):
        got = attn(x[:, i : i + 1], *placed([caches[0].length]), caches[0])
        kept = [p for p in range(i + 1) if p < 2 or p > i - 4]
        want = attn(x[:, kept], *placed(range(len(kept))))[:, -1:]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def placed(positions):
    r"""Positions and their angles for a rotated part of 4 features."""
    positions = torch.tensor(list(positions))
    return positions, positions[:, None] * torch.tensor([1.0, 0.01])


@pytest.mark.parametrize("kind", ["GQA", "MLA", "GQA, ALiBi"])
def test_endless_text_in_constant_memory(kind, fresh_seed):
    model = model_of(kind)
    caches, sizes = sink_cache.sink_caches(model, 2, 3, 9), []
    new = drawn_ids(fresh_seed, 2, 5)
    for _ in range(4):
        new = generate(model, new, 30, temperature=0.0, cache=caches)[:, -1:]
        sizes.append(kv_bytes.held_bytes(caches)["total"])
    assert caches[0].seen == 4 * 30 + 4 > 3 * model.config.max_seq_len and caches[0].length == 11
    assert set(sizes) == {kv_bytes.kv_bytes(CONFIGS[kind], 12, 2, torch.float64)}


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 3), st.integers(0, 2**31))
def test_a_chunk_makes_room_before_it_reads(chunks, n_sinks, seed):
    model, window = model_of("MHA, no positions"), 4
    token_ids, caches = drawn_ids(seed, 1, sum(chunks)), sink_cache.sink_caches(model, 1, n_sinks, window)
    cache, kept, start = caches[0], [], 0
    for n_new in chunks:
        new = list(range(start, start + n_new))
        if len(kept) + n_new > n_sinks + window:
            kept = [p for i, p in enumerate(kept) if i < n_sinks or i >= len(kept) - (window - n_new)]
        kept = kept + new
        k = torch.tensor(new, dtype=torch.float64)[None, None, :, None].expand(1, 4, -1, 6)
        got, _, places = cache.append(k, k, torch.arange(cache.length, cache.length + n_new))
        assert got[0, 0, :, 0].tolist() == kept
        assert places[0].diff().eq(1).all() and 0 <= int(places[0, 0])
        start += n_new
    assert cache.seen == token_ids.shape[1]


def test_what_cannot_stream_is_refused():
    for kind, words in (("GQA, learned positions", "which can't be moved"), ("window", "would hide the sinks"),
                        ("a window in one layer", "would hide the sinks")):
        with pytest.raises(ValueError, match=words):
            sink_cache.sink_caches(model_of(kind), 1, 2, 4)
    model = model_of("MHA")
    with pytest.raises(ValueError, match="max_seq_len=40"):
        sink_cache.sink_caches(model, 1, 4, 37)
    for sizes in ((-1, 4), (2, 0)):
        with pytest.raises(ValueError, match=r"n_sinks=-1|window=0"):
            sink_cache.sink_caches(model, 1, *sizes)
    caches = sink_cache.sink_caches(model, 2, 2, 3)
    with pytest.raises(ValueError, match="chunks of at most 3"):
        model(drawn_ids(0, 2, 6), cache=caches)
    real = torch.tensor([[True, True], [False, True]])
    with pytest.raises(ValueError, match="takes no padding"):
        model(drawn_ids(0, 2, 2), real, cache=caches)
    assert caches[0].seen == 0
    with pytest.raises(ValueError, match="n_sinks=-1"):
        sinks.evict_with_sinks(torch.zeros(3, 1), -1, 2)
