r"""Long texts: what overlap promises, what a tree merges, what a sliding window counts."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minillm.config import preset
from minillm.inference.long_text import (
    chunk_spans,
    cut_share,
    map_reduce,
    packed_spans,
    sliding_nats,
    sliding_windows,
    two_level_pairs,
)
from minillm.model.gpt import GPT

cuts = st.integers(1, 30).flatmap(lambda size: st.tuples(st.integers(1, 200), st.just(size), st.integers(0, size - 1)))


@given(cuts)
def test_chunks_cover_the_text_and_share_what_they_should(cut):
    n_tokens, chunk_len, overlap = cut
    spans = chunk_spans(n_tokens, chunk_len, overlap)
    assert spans[0][0] == 0 and spans[-1][1] == n_tokens
    assert all(0 < end - start <= chunk_len for start, end in spans)
    for (start, end), (next_start, next_end) in zip(spans, spans[1:], strict=False):
        assert end - start == chunk_len and end - next_start == overlap and next_end > end


@given(cuts, st.integers(1, 40))
def test_a_fact_no_longer_than_overlap_and_one_is_never_cut(cut, fact_len):
    n_tokens, chunk_len, overlap = cut
    fact_len = min(fact_len, n_tokens)
    spans = chunk_spans(n_tokens, chunk_len, overlap)
    cut_places = [
        place for place in range(n_tokens - fact_len + 1)
        if not any(start <= place and place + fact_len <= end for start, end in spans)
    ]  # fmt: skip
    assert cut_share(n_tokens, chunk_len, overlap, fact_len) == pytest.approx(
        len(cut_places) / (n_tokens - fact_len + 1))
    if fact_len <= overlap + 1:
        assert not cut_places


def test_the_bound_is_sharp():
    assert cut_share(100_000, 100, 0, 20) == pytest.approx(0.19, abs=0.001)
    assert cut_share(10_000, 100, 19, 20) == 0 < cut_share(10_000, 100, 18, 20)
    assert cut_share(1000, 10, 0, 11) == 1  # longer than a chunk


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 30))
def test_packed_chunks_cut_no_piece(piece_lens, chunk_len):
    spans = packed_spans(piece_lens, chunk_len)
    borders = {sum(piece_lens[:i]) for i in range(len(piece_lens) + 1)}
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == sum(piece_lens) and {place for span in spans for place in span} <= borders
    assert all(end - start <= chunk_len for start, end in spans)
    for (start, end), (_, next_end) in zip(spans, spans[1:], strict=False):
        first = min(border for border in borders if border > end)
        assert first - start > chunk_len and next_end >= first  # the next piece had no room


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.integers(2, 7))
def test_a_tree_of_merges_keeps_the_order_and_its_bounds(parts, fan_in):
    sizes = []

    def join(group):
        sizes.append(len(group))
        return [item for results in group for item in results]

    levels = map_reduce(parts, lambda part: [part], join, fan_in)
    assert levels[0] == [[part] for part in parts] and levels[-1] == [parts]
    assert all(2 <= size <= fan_in for size in sizes)
    for below, above in zip(levels, levels[1:], strict=False):
        assert len(above) == -(-len(below) // fan_in)


@given(st.integers(1, 120), st.integers(1, 20).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w))))
def test_windows_count_every_token_once_with_enough_before_it(n_tokens, sizes):
    window, stride = sizes
    looks = sliding_windows(n_tokens, window, stride)
    assert [place for look in looks for place in range(look.counted_from, look.end)] == list(range(n_tokens))
    assert {look.end - look.start for look in looks} == {min(window, n_tokens)}
    for look in looks[1:]:
        assert look.counted_from - look.start >= window - stride


@pytest.mark.parametrize("stride", [1, 3, 7])
def test_sliding_nats_are_those_of_each_window_alone(fresh_seed, stride):
    config = preset("tiny", vocab_size=20, d_model=16, n_heads=2, n_kv_heads=2, head_dim=8)
    model = GPT(config, torch.Generator().manual_seed(fresh_seed)).eval()
    n_tokens, window = random.Random(fresh_seed).randint(9, 40), 7
    token_ids = torch.randint(20, (n_tokens,), generator=torch.Generator().manual_seed(fresh_seed))
    nats = sliding_nats(model, token_ids, window, stride, batch_size=3)
    want = []
    with torch.no_grad():
        for place in range(1, n_tokens):
            look = next(look for look in sliding_windows(n_tokens - 1, window, stride) if place - 1 < look.end)
            logits = model(token_ids[None, look.start : place])[0, -1]
            want.append(F.cross_entropy(logits, token_ids[place]))
    torch.testing.assert_close(nats.float(), torch.stack(want), atol=1e-5, rtol=1e-4)


def test_pairs_of_two_levels(fresh_seed):
    rng = random.Random(fresh_seed)
    chunk_len, n_chunks = rng.randint(1, 9), rng.randint(1, 9)
    chunks = [range(i * chunk_len, (i + 1) * chunk_len) for i in range(n_chunks)]
    within = sum(1 for chunk in chunks for _ in chunk for _ in chunk)
    between = sum(1 for _ in chunks for _ in chunks)
    assert two_level_pairs(chunk_len * n_chunks, chunk_len) == (within, between)
    assert two_level_pairs(4096, 64) == (262_144, 4_096)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chunk_spans(0, 4), "n_tokens=0"),
        (lambda: chunk_spans(9, 4, 4), "overlap=4"),
        (lambda: cut_share(9, 4, 0, 10), "fact_len=10"),
        (lambda: packed_spans([], 4), "piece_lens is empty"),
        (lambda: packed_spans([3, 5], 4), r"piece_lens\[1\]=5"),
        (lambda: map_reduce([], len, sum), "parts is empty"),
        (lambda: map_reduce("ab", len, sum, 1), "fan_in=1"),
        (lambda: two_level_pairs(10, 3), "chunk_len=3"),
        (lambda: sliding_windows(0, 4, 1), "n_tokens=0"),
        (lambda: sliding_windows(9, 4, 5), "stride=5"),
        (lambda: sliding_nats(None, torch.tensor([1]), 4, 1), "token_ids has 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
