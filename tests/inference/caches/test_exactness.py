r"""Cached = uncached: every exact cache, every kind of attention, the text cut anywhere, padding anywhere."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.inference.caches import block_pool, paged, prefix, rolling, sink_cache
from minillm.inference.generate import generate
from minillm.layers.paths import plain_path
from tests.inference.caches.models import CONFIGS, WINDOWED, drawn_ids, model_of

SEQ_LEN = 13


def contiguous(model, draw):
    return model.new_cache(2, SEQ_LEN)


def in_blocks(model, draw):
    r"""Blocks of a random length, handed out in a random order."""
    block_len = draw.randint(1, 5)
    pool = block_pool.block_pool(model, 2 * -(-SEQ_LEN // block_len), block_len)
    draw.shuffle(pool.free_blocks)
    return paged.paged_caches(model, 2, pool)


def rolled(model, draw):
    return rolling.rolling_caches(model, 2, SEQ_LEN if draw.random() < 0.5 else 3 * SEQ_LEN)


EXACT = [(make, kind) for kind in CONFIGS for make in (contiguous, in_blocks, rolled)
         if make is not rolled or kind in WINDOWED]
CUTS = st.sets(st.integers(1, SEQ_LEN - 1))
PADDING = st.lists(st.booleans(), min_size=2 * SEQ_LEN, max_size=2 * SEQ_LEN)
FEW = settings(max_examples=8)  # of each pair: there are many


@pytest.mark.parametrize(("make", "kind"), EXACT, ids=lambda part: getattr(part, "__name__", part))
@FEW
@given(cuts=CUTS, real=st.one_of(st.none(), st.integers(0, SEQ_LEN - 1), PADDING), seed=st.integers(0, 2**31))
def test_cached_is_uncached(make, kind, cuts, real, seed):
    r"""`real` is no padding at all, a number of padding tokens on the left of the second row, or any pattern."""
    model, token_ids = model_of(kind), drawn_ids(seed, 2, SEQ_LEN)
    if isinstance(real, int):
        real = [True] * SEQ_LEN + [column >= real for column in range(SEQ_LEN)]
    real = None if real is None else torch.tensor(real).view(2, SEQ_LEN)
    caches, pieces, edges = make(model, random.Random(seed)), [], [0, *sorted(cuts), SEQ_LEN]
    with torch.no_grad():
        whole = model(token_ids, real)
        for start, end in zip(edges, edges[1:], strict=False):
            seen = None if real is None else real[:, :end]
            pieces.append(model(token_ids[:, start:end], seen, cache=caches))
            assert {cache.length for cache in caches} == {end}
    counted = slice(None) if real is None else real
    torch.testing.assert_close(torch.cat(pieces, dim=1)[counted], whole[counted], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("make", "kind"), EXACT, ids=lambda part: getattr(part, "__name__", part))
def test_both_paths_write_the_same_text_from_a_padded_batch(make, kind, fresh_seed):
    model, prompts, n_padding = model_of(kind), drawn_ids(fresh_seed, 2, 5), fresh_seed % 5
    real = torch.ones(2, 5, dtype=torch.bool)
    real[1, :n_padding] = False
    options = dict(max_new_tokens=SEQ_LEN - 5, temperature=0.0, padding_mask=real)
    want = generate(model, prompts, **options)
    alone = generate(model, prompts[1:, n_padding:], SEQ_LEN - 5, temperature=0.0)
    assert torch.equal(want[1:, n_padding:], alone)
    for seed in range(2):
        caches = make(model, random.Random(seed))
        assert torch.equal(generate(model, prompts, **options, cache=caches), want)
        with plain_path():
            caches = make(model, random.Random(seed))
            assert torch.equal(generate(model, prompts, **options, cache=caches), want)


@pytest.mark.parametrize("kind", ["MHA", "GQA, ALiBi", "MLA", "MHA, T5 bias", "MHA, no positions"])
@FEW
@given(cuts=CUTS, extra=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_a_sink_cache_is_exact_until_it_drops_something(kind, cuts, extra, seed):
    model, token_ids, edges = model_of(kind), drawn_ids(seed, 2, SEQ_LEN), [0, *sorted(cuts), SEQ_LEN]
    caches = sink_cache.sink_caches(model, 2, 4, SEQ_LEN - 4 + extra)
    with torch.no_grad():
        pieces = [model(token_ids[:, start:end], cache=caches) for start, end in zip(edges, edges[1:], strict=False)]
        # turned back and forth by float32 angles, whose squares of sine and cosine add up to 1 but for 1e-7
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(token_ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["GQA", "MLA", "GQA, learned positions", "window"])
@FEW
@given(n_common=st.integers(0, SEQ_LEN), block_len=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_a_shared_beginning_changes_nothing(kind, n_common, block_len, seed):
    model, draw = model_of(kind), random.Random(seed)
    first, second = drawn_ids(seed, 1, SEQ_LEN), drawn_ids(seed + 1, 1, SEQ_LEN)
    second[:, :n_common] = first[:, :n_common]
    pool = block_pool.block_pool(model, 2 * -(-SEQ_LEN // block_len), block_len)
    draw.shuffle(pool.free_blocks)
    index = prefix.PrefixIndex(pool)
    with torch.no_grad():
        for token_ids in (first, second):
            caches, n_shared = prefix.prefix_caches(model, index, token_ids)
            got = model(token_ids[:, n_shared:], cache=caches)
            torch.testing.assert_close(got, model(token_ids)[:, n_shared:], rtol=1e-6, atol=1e-9)
            index.remember(caches, token_ids)
    same = int((first == second).cumprod(dim=1).sum())
    assert n_shared == min(same, SEQ_LEN - 1) // block_len * block_len
