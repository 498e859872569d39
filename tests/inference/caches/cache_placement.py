r"""Caches of every kind on a device that does not exist, see `tests/pretend_numbers.py`.

A model there reads a text in pieces, with a cache. What it says must be what it says on the CPU, and where a cache is
exact, what a model without a cache says of the whole text.
"""

import torch

from minillm.inference.caches import block_pool, chunk, int8, paged, prefix, rolling, sink_cache, sinks
from tests import pretend_numbers
from tests.inference.caches.models import drawn_ids, model_of, model_on

TEXTS = drawn_ids(7, 3, 11)
PIECES = (4, 1, 1, 5)
REAL = torch.arange(11) >= torch.tensor([0, 3, 1])[:, None]  # padding on the left


def in_pieces(device, kind, caches_of, real=None, pieces=PIECES):
    r"""Logits of the texts, read piece after piece."""
    model, token_ids, said, start = model_on(device, kind), TEXTS.to(device), [], 0
    real, caches = None if real is None else real.to(device), caches_of(model)
    for n in pieces:
        seen = None if real is None else real[:, : start + n]
        said.append(model(token_ids[:, start : start + n], seen, cache=caches))
        start += n
    return torch.cat(said, dim=1) if real is None else torch.cat(said, dim=1)[real]


def at_once(kind, real=None, rows=(0, 1, 2)):
    r"""The same without a cache, on the CPU."""
    said = model_of(kind)(TEXTS[list(rows)], real)
    return said if real is None else said[real]


def pool_of(model):
    r"""Blocks that are not handed out in order."""
    pool = block_pool.block_pool(model, 40, 2)
    pool.free_blocks.reverse()
    return pool


def beams_share(device):
    r"""Rows of a paged cache are exchanged, share their blocks, and copy those that they write into."""
    model, token_ids = model_on(device, "GQA"), TEXTS.to(device)
    pool = pool_of(model)
    caches = paged.paged_caches(model, 3, pool)
    model(token_ids[:, :5], cache=caches)
    rows = torch.tensor([1, 1, 0], device=device)
    for cache in caches:
        cache.choose(rows)
    said = model(token_ids[rows, 5:], cache=caches)
    assert pool.copies == 1  # one of the two that share a block which is not full
    return said


def samples_share(device):
    r"""Several texts go on from one prompt, and then the prompt itself does."""
    model, token_ids = model_on(device, "MLA"), TEXTS.to(device)
    start = paged.paged_caches(model, 1, pool_of(model))
    model(token_ids[:1, :5], cache=start)
    samples = paged.fork_rows(start, [0, 0, 0])
    said = [model(token_ids[:, 5:], cache=samples)]
    paged.release_rows(samples)
    return torch.cat([*said, model(token_ids[:1, 5:], cache=start)])


def beginnings_share(device):
    r"""A second text that begins like the first finds the blocks of its beginning."""
    model, token_ids = model_on(device, "GQA"), TEXTS[:1].to(device)
    index = prefix.PrefixIndex(pool_of(model))
    first, n_shared = prefix.prefix_caches(model, index, token_ids)
    assert n_shared == 0
    model(token_ids[:, :7], cache=first)
    index.remember(first, token_ids)
    paged.release_rows(first)
    second, n_shared = prefix.prefix_caches(model, index, token_ids)
    assert n_shared == 6
    return model(token_ids[:, n_shared:], cache=second)


def one_layer(device, padded):
    r"""A step of a single layer, written out."""
    numbers = torch.randn(5, 3, 2, 9, 4, generator=torch.Generator().manual_seed(2)).to(device)
    q, k, v = numbers[:3, :, :, :3]
    real = torch.cat([REAL[:, :5], torch.ones(3, 3, dtype=torch.bool)], dim=1).to(device) if padded else None
    return torch.cat(chunk.attend_chunk(q, k, v, numbers[3], numbers[4], 5, real, window=4), dim=2)


CASES = {
    "contiguous": lambda device: in_pieces(device, "GQA", lambda model: model.new_cache(3, 11)),
    "contiguous, latent": lambda device: in_pieces(device, "MLA", lambda model: model.new_cache(3, 12)),
    "contiguous, padding": lambda device: in_pieces(device, "MHA", lambda model: model.new_cache(3, 11), REAL),
    "rolling": lambda device: in_pieces(device, "window", lambda model: rolling.rolling_caches(model, 3)),
    "rolling, padding": lambda device: in_pieces(
        device, "a window in one layer", lambda model: rolling.rolling_caches(model, 3, 11), REAL),
    "sinks": lambda device: in_pieces(
        device, "GQA", lambda model: sink_cache.sink_caches(model, 3, 2, 4), pieces=(4, 1, 3, 1, 1, 1)),
    "sinks, latent": lambda device: in_pieces(device, "MLA", lambda model: sink_cache.sink_caches(model, 3, 1, 5)),
    "sinks, nothing dropped": lambda device: in_pieces(
        device, "GQA, ALiBi", lambda model: sink_cache.sink_caches(model, 3, 4, 7)),
    "int8": lambda device: in_pieces(device, "GQA", lambda model: int8.int8_caches(model, 3, 11), REAL),
    "int8, latent": lambda device: in_pieces(device, "MLA", lambda model: int8.int8_caches(model, 3, 11)),
    "paged": lambda device: in_pieces(device, "GQA", lambda model: paged.paged_caches(model, 3, pool_of(model))),
    "paged, padding": lambda device: in_pieces(
        device, "window", lambda model: paged.paged_caches(model, 3, pool_of(model)), REAL),
    "paged, beams": beams_share,
    "paged, samples": samples_share,
    "beginnings": beginnings_share,
    "eviction": lambda device: sinks.evict_with_sinks(torch.arange(18, device=device).view(1, 9, 2), 2, 3),
    "one layer": lambda device: one_layer(device, padded=False),
    "one layer, padding": lambda device: one_layer(device, padded=True),
    "left behind": lambda device: torch.ones(2, device=device) + torch.zeros(2),  # a famous mistake, to be found out
}
WITHOUT_A_CACHE = {
    "contiguous": lambda: at_once("GQA"),
    "contiguous, latent": lambda: at_once("MLA"),
    "contiguous, padding": lambda: at_once("MHA", REAL),
    "rolling": lambda: at_once("window"),
    "rolling, padding": lambda: at_once("a window in one layer", REAL),
    "sinks, nothing dropped": lambda: at_once("GQA, ALiBi"),
    "paged": lambda: at_once("GQA"),
    "paged, padding": lambda: at_once("window", REAL),
    "paged, beams": lambda: at_once("GQA", rows=(1, 1, 0))[:, 5:],
    "paged, samples": lambda: model_of("MLA")(
        torch.cat([TEXTS[[0, 0, 0, 0], :5], TEXTS[[0, 1, 2, 0], 5:]], dim=1))[:, 5:],
    "beginnings": lambda: at_once("GQA", rows=(0,))[:, 6:],
    "eviction": lambda: torch.tensor([[[2 * i, 2 * i + 1] for i in (0, 1, 6, 7, 8)]]),
}


if __name__ == "__main__":
    pretend_numbers.tell_numbers(CASES, WITHOUT_A_CACHE)
