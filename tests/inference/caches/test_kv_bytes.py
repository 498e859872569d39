r"""Predicted bytes = bytes that are held, and the numbers that everybody knows."""

from dataclasses import replace

import pytest
import torch

from minillm.config import AttentionOptions, preset
from minillm.inference.caches import block_pool, int8, kv_bytes, paged, rolling, sink_cache
from minillm.inference.generate import generate
from tests.inference.caches.models import CONFIGS, MHA, WINDOWED, drawn_ids, model_of

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_contiguous_caches_weigh_what_is_predicted(kind, dtype):
    model, config = model_of(kind), replace(CONFIGS[kind])
    for batch_size, capacity in ((1, 1), (3, 17)):
        caches = model.new_cache(batch_size, capacity, dtype)
        whole = replace(config, attention=AttentionOptions()) if kind in WINDOWED else config  # all tokens are kept
        want = kv_bytes.kv_bytes(whole, capacity, batch_size, dtype)
        generate(model, drawn_ids(0, batch_size, 1), capacity, temperature=0.0, cache=caches)
        assert caches[0].length == capacity
        assert kv_bytes.held_bytes(caches) == {
            "keys_values": want, "positions": (held := 2 * batch_size * capacity * 8), "total": want + held}


@pytest.mark.parametrize("kind", WINDOWED)
def test_rolling_caches_weigh_what_is_predicted(kind):
    model = model_of(kind)
    for capacity in (1, 2, 3, 4, 5, 30):
        caches = rolling.rolling_caches(model, 2, capacity)
        generate(model, drawn_ids(0, 2, 1), capacity, temperature=0.0, cache=caches)
        want = kv_bytes.kv_bytes(CONFIGS[kind], capacity, 2, torch.float64)
        assert kv_bytes.held_bytes(caches)["keys_values"] == want


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_8_bit_caches_weigh_what_is_predicted(kind):
    caches = int8.int8_caches(model_of(kind), 2, 9)
    assert kv_bytes.held_bytes(caches)["keys_values"] == int8.int8_kv_bytes(CONFIGS[kind], 9, 2)


@pytest.mark.parametrize("kind", ["MHA", "GQA", "MQA", "MLA"])
def test_pools_and_sinks_weigh_what_is_predicted(kind):
    model, config = model_of(kind), CONFIGS[kind]
    pool = block_pool.block_pool(model, 7, 4, torch.float32)
    caches = paged.paged_caches(model, 2, pool)
    want = kv_bytes.kv_bytes(config, 7 * 4, 1, torch.float32)
    assert kv_bytes.held_bytes(caches)["keys_values"] == want
    with torch.no_grad():
        model(drawn_ids(0, 2, 5), cache=caches)
    assert kv_bytes.held_bytes(paged.fork_rows(caches, [0, 1, 1]))["keys_values"] == want
    caches = sink_cache.sink_caches(model, 2, 2, 5, torch.float32)
    with torch.no_grad():
        for i, n_held in enumerate([1, 2, 3, 4, 5, 6, 7, 7, 7]):
            model(drawn_ids(i, 2, 1), cache=caches)
            assert kv_bytes.held_bytes(caches)["keys_values"] == kv_bytes.kv_bytes(config, n_held, 2, torch.float32)


def test_numbers_that_are_known():
    assert kv_bytes.kv_bytes(preset("llama-7b"), 1, dtype=torch.float16) == 524_288
    assert kv_bytes.kv_bytes(preset("llama-7b"), 4096, dtype=torch.float16) == 2 * 2**30
    sizes = dict(d_model=8192, n_layers=80, n_heads=64, head_dim=128)
    assert kv_bytes.kv_bytes(replace(MHA, **sizes, n_kv_heads=64), 1, dtype=torch.float16) == 2_621_440
    assert kv_bytes.kv_bytes(replace(MHA, **sizes, n_kv_heads=8), 1, dtype=torch.float16) == 327_680


def test_nonsense_is_refused():
    for counts in ((-1, 1), (1, -1)):
        with pytest.raises(ValueError, match="kv_len=-?1, batch_size=-?1"):
            kv_bytes.kv_bytes(MHA, *counts)
    assert kv_bytes.kv_bytes(MHA, 0) == 0
