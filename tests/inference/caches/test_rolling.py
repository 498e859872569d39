r"""The ring: what a plain list of the last tokens holds, in memory that does not grow."""

import random

import pytest
import torch

from minillm.inference.caches import rolling
from minillm.inference.generate import generate
from minillm.layers.cache import KVCache
from tests.inference.caches.models import WINDOWED, drawn_ids, model_of

SHAPES = ((2, 3), (2, 3))


def test_every_key_in_sight_comes_back_once(fresh_seed):
    draw = random.Random(fresh_seed)
    torch.manual_seed(fresh_seed)
    window = draw.randint(1, 5)
    cache, told, seen = rolling.RollingCache(2, window, SHAPES), [{}, {}], torch.zeros(2, dtype=torch.int64)
    for _ in range(20):
        n_new = draw.choice([1, 1, 2, 7])
        real = torch.rand(2, n_new) < 0.7
        positions = (seen[:, None] + real.cumsum(dim=1) - 1).masked_fill(~real, -1)
        seen = seen + real.sum(dim=1)
        k, v = torch.randn(2, 2, n_new, 3), torch.randn(2, 2, n_new, 3)
        got_k, got_v, kv_positions = cache.append(k, v, positions)
        assert got_k.shape[2] == kv_positions.shape[1] == (window if n_new == 1 else window + n_new)
        for row in range(2):
            for column, place in enumerate(positions[row].tolist()):
                if place >= 0:
                    told[row][place] = (k[row, :, column], v[row, :, column])
            places = kv_positions[row].tolist()
            for place in [p for p in positions[row].tolist() if p >= 0]:
                for near in range(max(place - window + 1, 0), place + 1):
                    assert places.count(near) == 1
            for slot, place in enumerate(places):
                if place >= 0:
                    assert torch.equal(got_k[row, :, slot], told[row][place][0])
                    assert torch.equal(got_v[row, :, slot], told[row][place][1])


def test_small_numbers_are_stored_as_they_will_be_read():
    r"""A chunk must see itself as later tokens will see it: in the cache's dtype."""
    torch.manual_seed(0)
    k, v = torch.randn(1, 2, 4, 3), torch.randn(1, 2, 4, 3)
    at_once, steps = (rolling.RollingCache(1, 4, SHAPES, torch.bfloat16) for _ in range(2))
    got_k, _, places = at_once.append(k, v, torch.arange(4))
    for i in range(4):
        one_k, _, where = steps.append(k[:, :, i : i + 1], v[:, :, i : i + 1], torch.tensor([i]))
    order, other = places[0].argsort()[-4:], where[0].argsort()
    assert got_k.dtype == torch.float32 and torch.equal(got_k[:, :, order], one_k[:, :, other])


@pytest.mark.parametrize("kind", WINDOWED)
def test_layers_get_the_cache_that_holds_least(kind):
    model = model_of(kind)
    options = model.config.attention
    for capacity in (2, 4, 30):
        caches = rolling.rolling_caches(model, 1, capacity)
        for layer, cache in enumerate(caches):
            window = options.window_of(layer)
            rolls = window is not None and window < capacity
            assert type(cache) is (rolling.RollingCache if rolls else KVCache)
            assert cache.capacity == (window if rolls else capacity)


def test_a_window_reads_on_in_constant_memory():
    model = model_of("window")
    caches = rolling.rolling_caches(model, 1)
    kept = [part.data_ptr() for part in caches[0]._parts]
    prompt = drawn_ids(0, 1, 3)
    want = generate(model, prompt, 37, temperature=0.0)
    assert torch.equal(generate(model, prompt, 37, temperature=0.0, cache=caches), want)
    assert caches[0].length == 39 and [part.data_ptr() for part in caches[0]._parts] == kept


def test_what_cannot_roll_is_refused():
    for kind in ("MHA", "MLA"):
        with pytest.raises(ValueError, match="has no window"):
            rolling.rolling_caches(model_of(kind), 1, 10)
    with pytest.raises(ValueError, match="capacity=None"):
        rolling.rolling_caches(model_of("a window in one layer"), 1)
    with pytest.raises(ValueError, match="window=0"):
        rolling.RollingCache(1, 0, SHAPES)
    with pytest.raises(ValueError, match="k .*: this cache takes"):
        rolling.RollingCache(1, 2, SHAPES).append(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3), torch.arange(1))
