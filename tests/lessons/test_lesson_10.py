r"""Lesson 10: the bug that is shown is the bug that is run, and caches run the learner's code, where the model is."""

import re
from dataclasses import replace

import pytest
import torch

from minillm.bench.variants import harness
from minillm.config import AttentionOptions, Mla
from minillm.course import mine, shelf
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_10.digests import BLOCK_DIGESTS, digest_cases, who_shares
from minillm.inference.caches import block_pool, chunk, int8, kv_bytes, paged, prefix, rolling, sink_cache
from minillm.model.gpt import GPT

USED = ("layers.cache.cache_append", "inference.caches.chunk.mask_for_chunk", "inference.caches.kv_bytes.kv_bytes",
        "inference.caches.sinks.evict_with_sinks", "inference.caches.block_table.block_table_append",
        "inference.caches.prefix.block_digests")


@pytest.fixture(autouse=True)
def empty_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())


def small_gpt(**changes) -> GPT:
    sizes = dict(vocab_size=20, max_seq_len=64, d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8)
    return GPT(replace(harness.BASE, **{**sizes, **changes}), torch.Generator().manual_seed(0)).eval()


def use_caches() -> None:
    r"""The lesson's last cell but one, in small."""
    model, token_ids = small_gpt(), torch.randint(20, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        chunk.attend_chunk(*torch.randn(3, 1, 2, 3, 8), *torch.zeros(2, 1, 2, 5, 8), length=0)
        model(token_ids, cache=model.new_cache(1, 12))
        index = prefix.PrefixIndex(block_pool.block_pool(model, 8, block_len=4))
        caches, _ = prefix.prefix_caches(model, index, token_ids)
        model(token_ids, cache=caches)
        index.remember(caches, token_ids)
        sinks = sink_cache.sink_caches(model, 1, n_sinks=1, window=4)
        for column in token_ids.split(1, dim=1):
            model(column, cache=sinks)
    kv_bytes.kv_bytes(model.config, 12)


@pytest.mark.parametrize("part", USED)
def test_caches_raise_where_a_part_of_the_learner_raises(part: str) -> None:
    with mine.active():
        use_caches()
    assert {name: calls for name, _, calls in mine.table().rows}[part] >= 1
    source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
    shelf.IN_MEMORY.keep_attempt(part, source)
    with pytest.raises(ArithmeticError, match="mine"), mine.active():
        use_caches()


def test_the_bug_that_is_shown_is_a_proved_mistake(fresh_seed: int) -> None:
    code = "import hashlib\n" + re.search(r"```python\n(.*?)```", BLOCK_DIGESTS.task, re.DOTALL)[1]
    namespace: dict = {}
    exec(code, namespace)
    shown, proved = namespace["block_digests"], BLOCK_DIGESTS.mistakes[0].wrong
    for (texts, block_len), _ in digest_cases(Draw(fresh_seed)):
        (counts, same), (proved_counts, proved_same) = (who_shares(f, texts, block_len) for f in (shown, proved))
        assert counts == proved_counts and torch.equal(same, proved_same)
    assert BLOCK_DIGESTS.judge(shown).mistake == "its face alone"


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 1}, {"attention": Mla(kv_rank=6, rope_dim=4)},
                                     {"attention": AttentionOptions(window=5)}], ids=["mha", "mqa", "mla", "window"])
def test_caches_are_made_where_the_model_is(changes: dict) -> None:
    r"""Nothing is left behind on the CPU: checked on torch's meta device, which has shapes and no memory."""
    model = small_gpt(**changes).to("meta")
    pool = block_pool.block_pool(model, 4)
    made = [*model.new_cache(2, 9), *int8.int8_caches(model, 2, 9), *paged.paged_caches(model, 2, pool), pool]
    if "attention" in changes and isinstance(changes["attention"], AttentionOptions):
        made += rolling.rolling_caches(model, 2)
    else:
        made += sink_cache.sink_caches(model, 2, 1, 4)
    tensors = [tensor for cache in made for tensor in kv_bytes._tensors_of(cache, set())]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
