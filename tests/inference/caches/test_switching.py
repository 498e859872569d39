r"""The functions that learners write are the ones that the caches run."""

import pytest

from minillm.inference.caches import block_pool, block_table, paged, sink_cache, sinks
from minillm.inference.generate import generate
from minillm.layers import cache
from minillm.layers.paths import plain_path
from tests.inference.caches.models import drawn_ids, model_of

USERS = {
    "cache_append": (cache, lambda model: model.new_cache(1, 12)),
    "block_table_append": (block_table, lambda model: paged.paged_caches(model, 1, block_pool.block_pool(model, 6, 2))),
    "evict_with_sinks": (sinks, lambda model: sink_cache.sink_caches(model, 1, 2, 3)),
}


@pytest.mark.parametrize("name", list(USERS))
def test_a_function_that_is_switched_in_is_called(name, monkeypatch):
    module, make = USERS[name]
    own, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        return own(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    model = model_of("GQA")
    with plain_path():
        generate(model, drawn_ids(0, 1, 4), 8, cache=make(model))
    assert len(calls) >= 7
