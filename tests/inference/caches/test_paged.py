r"""Paged memory: the pool counts its holders, forks share until they write, and nothing is lost or taken twice."""

import copy
import random

import pytest
import torch

from minillm.inference.caches import block_pool, paged
from minillm.inference.caches.block_pool import BlockPool
from minillm.inference.generate import generate
from minillm.layers.cache import KVCache
from tests.inference.caches.models import drawn_ids, model_of

SHAPES = ((2, 3), (2, 3))


def held_by(pool, batches):
    r"""How many rows of these batches hold each block."""
    counts = [0] * pool.n_blocks
    for caches in batches:
        for table in caches[0].rows.block_tables:
            for block in table:
                counts[block] += 1
    return counts


def append_random(caches, books, draw, positions):
    r"""The same random tokens into the caches of two layers and into lists; returns whether keys came back right."""
    batch_size = len(books)
    k, v = torch.randn(2, batch_size, 2, positions.shape[1], 3), torch.randn(2, batch_size, 2, positions.shape[1], 3)
    for layer, cache in enumerate(caches):
        got_k, got_v, kv_positions = cache.append(k[layer], v[layer], positions)
        for row, book in enumerate(books):
            for column, position in enumerate(positions[row].tolist()):
                if position >= 0:
                    book[layer][position] = (k[layer, row, :, column], v[layer, row, :, column])
            places = kv_positions[row].tolist()
            assert sorted(p for p in places if p >= 0) == sorted(book[layer])
            for slot, place in enumerate(places):
                if place >= 0:
                    assert torch.equal(got_k[row, :, slot], book[layer][place][0])
                    assert torch.equal(got_v[row, :, slot], book[layer][place][1])


def test_random_lives_of_shared_sequences(fresh_seed):
    r"""Append, fork and release at random, beside a book of plain dicts that share nothing."""
    draw = random.Random(fresh_seed)
    torch.manual_seed(fresh_seed)
    n_blocks = 30  # so few that they run out, and come back with the remains of other texts
    pool = BlockPool(2, n_blocks, 3, SHAPES)
    draw.shuffle(pool.free_blocks)
    first = paged.PagedRows(pool, [[], []], [0, 0], 0)
    batches = [([paged.PagedCache(layer, first) for layer in range(2)], [[{}, {}], [{}, {}]])]
    for _ in range(150):
        caches, books = draw.choice(batches)
        what = draw.random()
        if what < 0.6:
            n_new, counts = draw.randint(1, 4), torch.tensor(caches[0].rows.counts)
            real = torch.rand(len(books), n_new) < 0.8
            positions = (counts[:, None] + real.cumsum(dim=1) - 1).masked_fill(~real, -1)
            try:
                append_random(caches, books, draw, positions)
            except ValueError as error:
                assert "are free; release sequences" in str(error)
        elif what < 0.75 and len(batches) < 8:
            rows = [draw.randrange(len(books)) for _ in range(draw.randint(1, 3))]
            batches.append((paged.fork_rows(caches, rows), [copy.deepcopy(books[row]) for row in rows]))
        elif len(batches) > 1:
            batches = [pair for pair in batches if pair[0] is not caches]
            paged.release_rows(caches)
        assert pool.ref_counts == held_by(pool, [pair[0] for pair in batches])
        free = [block for block, count in enumerate(pool.ref_counts) if count == 0]
        assert sorted(pool.free_blocks) == free and pool.n_used == n_blocks - len(free)
    assert pool.copies > 0
    for caches, _ in batches:
        paged.release_rows(caches)
    assert pool.n_used == 0 and sorted(pool.free_blocks) == list(range(n_blocks))


@pytest.mark.parametrize("kind", ["GQA", "MLA", "window"])
def test_forked_samples_of_one_prompt_go_their_own_ways(kind, fresh_seed):
    model, prompt = model_of(kind), drawn_ids(fresh_seed, 1, 9)
    pool = block_pool.block_pool(model, 40, 4)
    start = paged.paged_caches(model, 1, pool)
    with torch.no_grad():
        model(prompt[:, :6], cache=start)
    assert pool.n_used == 2
    samples, others = paged.fork_rows(start, [0, 0, 0]), drawn_ids(fresh_seed + 1, 3, 6)
    assert pool.n_used == 2 and pool.copies == 0
    with torch.no_grad():
        got = model(others, cache=samples)
        want = model(torch.cat([prompt[:, :6].expand(3, -1), others], dim=1))[:, 6:]
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)
        # the prompt's two, one of them full and for all; then for each sample a copy of the other, and a third
        assert pool.n_used == 2 + 3 + 3 and pool.copies == 3
        torch.testing.assert_close(model(prompt[:, 6:], cache=start), model(prompt)[:, 6:], rtol=1e-6, atol=1e-9)


def test_beams_change_their_rows(fresh_seed):
    model, texts = model_of("GQA"), drawn_ids(fresh_seed, 3, 10)
    caches = paged.paged_caches(model, 3, block_pool.block_pool(model, 60, 2))
    chosen, so_far = random.Random(fresh_seed), texts[:, :3]
    with torch.no_grad():
        model(so_far, cache=caches)
        for step in range(3, 10):
            rows = [chosen.randrange(3) for _ in range(3)]
            before, caches = caches, paged.fork_rows(caches, rows)
            paged.release_rows(before)
            so_far = torch.cat([so_far[rows], texts[:, step : step + 1]], dim=1)
            got = model(so_far[:, -1:], cache=caches)
            torch.testing.assert_close(got[:, -1], model(so_far)[:, -1], rtol=1e-6, atol=1e-9)


def test_rows_of_different_length_waste_less_than_a_block(fresh_seed):
    model, lengths = model_of("MQA"), [random.Random(fresh_seed).randint(1, 20) for _ in range(5)]
    pool = block_pool.block_pool(model, 40, 4)
    real = torch.arange(20) >= 20 - torch.tensor(lengths)[:, None]
    caches = paged.paged_caches(model, 5, pool)
    with torch.no_grad():
        model(drawn_ids(fresh_seed, 5, 20), real, cache=caches)
    assert caches[0].rows.counts == lengths and caches[0].length == 20
    assert pool.n_used == sum(-(-length // 4) for length in lengths)


def test_a_full_pool_refuses_and_stays_as_it_is():
    pool = BlockPool(1, 3, 4, SHAPES)
    cache = paged.PagedCache(0, paged.PagedRows(pool, [[], []], [0, 0], 0))
    one, many = torch.zeros(2, 2, 1, 3), torch.zeros(2, 2, 5, 3)
    cache.append(one, one, torch.arange(1))
    before = ([*pool.ref_counts], [*pool.free_blocks], cache.rows.block_tables)
    with pytest.raises(ValueError, match="need 2 blocks of 4, and 1 of 3 are free"):
        cache.append(many, many, torch.arange(1, 6))
    assert before == (pool.ref_counts, pool.free_blocks, cache.rows.block_tables)
    assert (cache.length, cache.rows.length, cache.rows.counts) == (1, 1, [1, 1])
    shared = paged.fork_rows([cache], [0, 0])
    with pytest.raises(ValueError, match="need 2 blocks of 4, and 1 of 3"):
        shared[0].append(one, one, torch.arange(1, 2))


def test_the_last_holder_of_a_shared_block_writes_without_a_copy():
    pool = BlockPool(1, 2, 4, SHAPES)
    one = [paged.PagedCache(0, paged.PagedRows(pool, [[]], [0], 0))]
    token = torch.ones(1, 2, 1, 3)
    one[0].append(token, token, torch.arange(1))
    both = paged.fork_rows(one, [0, 0])
    paged.release_rows(one)
    assert pool.ref_counts == [2, 0]
    pair = token.expand(2, -1, -1, -1)
    k, _, positions = both[0].append(pair * torch.tensor([2.0, 3.0])[:, None, None, None], pair, torch.arange(1, 2))
    assert pool.copies == 1 and sorted(pool.ref_counts) == [1, 1]
    assert [k[row, 0, :2, 0].tolist() for row in range(2)] == [[1.0, 2.0], [1.0, 3.0]]
    assert positions.tolist() == [[0, 1, -1, -1]] * 2


def test_misuse_is_named():
    model = model_of("GQA")
    pool = block_pool.block_pool(model, 8, 4)
    for wrong in (pool.hold, pool.release):
        with pytest.raises(ValueError, match="3 is free"):
            wrong([3])
    caches = paged.paged_caches(model, 1, pool)
    with pytest.raises(ValueError, match=r"rows=\[1\]: use numbers of 0\.\.0"):
        paged.fork_rows(caches, [1])
    with pytest.raises(ValueError, match="pass all layer caches of a model together"):
        with torch.no_grad():
            model(drawn_ids(0, 1, 2), cache=caches)
            model.blocks[0].attn(torch.zeros(1, 1, 16, dtype=torch.float64), torch.tensor([2]), cache=caches[0])
            model.blocks[1].attn(torch.zeros(1, 2, 16, dtype=torch.float64), torch.tensor([2, 3]), cache=caches[1])
    with pytest.raises(ValueError, match="2 layers, the model 1"):
        paged.paged_caches(type("Short", (), {"blocks": [None]})(), 1, pool)
    with pytest.raises(ValueError, match="this cache takes"):
        paged.paged_caches(model, 2, pool)[0].append(torch.zeros(2, 1, 1, 6), torch.zeros(2, 1, 1, 6), torch.arange(1))
    with pytest.raises(ValueError, match="block_len=0"):
        block_pool.block_pool(model, 8, 0)


def test_a_shuffled_pool_gives_back_what_a_contiguous_cache_does(fresh_seed):
    torch.manual_seed(fresh_seed)
    pool, plain = BlockPool(1, 10, 4, SHAPES), KVCache(2, 2, 17, 3)
    random.Random(fresh_seed).shuffle(pool.free_blocks)
    cache = paged.PagedCache(0, paged.PagedRows(pool, [[], []], [0, 0], 0))
    for start, end in ((0, 6), (6, 7), (7, 17)):
        k, v, positions = torch.randn(2, 2, end - start, 3), torch.randn(2, 2, end - start, 3), torch.arange(start, end)
        want, got = plain.append(k, v, positions), cache.append(k, v, positions)
        assert torch.equal(got[0][:, :, :end], want[0]) and torch.equal(got[1][:, :, :end], want[1])
        assert torch.equal(got[2][:, :end], want[2]) and bool((got[2][:, end:] == -1).all())


def test_released_blocks_are_used_again_and_old_numbers_do_not_show(fresh_seed):
    model = model_of("MHA")
    caches = paged.paged_caches(model, 1, block_pool.block_pool(model, 3, 4))
    for seed in range(fresh_seed, fresh_seed + 3):
        prompt = drawn_ids(seed, 1, 4)
        want = generate(model, prompt, 8, temperature=0.0)
        assert torch.equal(generate(model, prompt, 8, temperature=0.0, cache=caches), want)
        paged.release_rows(caches)
