r"""Prefix sharing: a block is shared exactly where all that came before is the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.caches import block_pool, paged, prefix
from minillm.inference.generate import generate
from tests.inference.caches.models import drawn_ids, model_of

TEXT = st.lists(st.integers(0, 2), max_size=12)


@given(TEXT, TEXT, st.integers(1, 4))
def test_digests_agree_exactly_where_the_beginnings_do(one, other, block_len):
    digests = [prefix.block_digests(text, block_len) for text in (one, other)]
    assert [len(found) for found in digests] == [len(one) // block_len, len(other) // block_len]
    for i, a in enumerate(digests[0], 1):
        for j, b in enumerate(digests[1], 1):
            assert (a == b) == (i == j and one[: i * block_len] == other[: j * block_len])


def test_digests_do_not_run_numbers_together():
    assert prefix.block_digests([1, 23], 2) != prefix.block_digests([12, 3], 2)


def test_a_second_text_takes_no_blocks_for_what_is_known(fresh_seed):
    model, token_ids = model_of("GQA"), drawn_ids(fresh_seed, 1, 14)
    pool = block_pool.block_pool(model, 20, 4)
    index = prefix.PrefixIndex(pool)
    caches, n_shared = prefix.prefix_caches(model, index, token_ids)
    assert n_shared == 0
    written = generate(model, token_ids, 4, temperature=0.0, cache=caches)
    index.remember(caches, written)
    index.remember(caches, written)  # twice is as once
    assert pool.n_used == 5 and pool.ref_counts.count(2) == 4  # 17 tokens: four full blocks are known
    again, n_shared = prefix.prefix_caches(model, index, token_ids)
    assert n_shared == 12 and pool.n_used == 5
    assert torch.equal(generate(model, token_ids[:, n_shared:], 4, temperature=0.0, cache=again), written[:, n_shared:])
    assert pool.n_used == 5 + 2
    # Going on with the whole conversation, the answer is known too.
    turn = torch.cat([written, drawn_ids(fresh_seed, 1, 3)], dim=1)
    third, n_shared = prefix.prefix_caches(model, index, turn)
    assert n_shared == 16
    assert index.forget_unused() == 0  # all of it is in use
    for used in (caches, again, third):
        paged.release_rows(used)
    assert pool.n_used == 4 and index.match(turn[0].tolist()) != []
    assert index.forget_unused() == 4 and pool.n_used == 0
    assert index.match(turn[0].tolist()) == []


def test_the_last_token_is_always_computed(fresh_seed):
    model, token_ids = model_of("MHA"), drawn_ids(fresh_seed, 1, 8)
    index = prefix.PrefixIndex(block_pool.block_pool(model, 8, 4))
    caches, _ = prefix.prefix_caches(model, index, token_ids)
    with torch.no_grad():
        model(token_ids, cache=caches)
    index.remember(caches, token_ids)
    assert len(index.match(token_ids[0].tolist())) == 2
    assert prefix.prefix_caches(model, index, token_ids)[1] == 4


def test_padded_or_foreign_caches_are_not_remembered():
    model = model_of("MHA")
    pool, other = (block_pool.block_pool(model, 8, 4) for _ in range(2))
    real = torch.ones(2, 5, dtype=torch.bool)
    real[1, 0] = False
    padded, foreign = (paged.paged_caches(model, 2, mine) for mine in (pool, other))
    token_ids = drawn_ids(0, 2, 5)
    with torch.no_grad():
        model(token_ids, real, cache=padded)
        model(token_ids, cache=foreign)
    for caches in (padded, foreign):
        with pytest.raises(ValueError, match="remember texts of this index's own pool, without padding"):
            prefix.PrefixIndex(pool).remember(caches, token_ids)
