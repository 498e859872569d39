r"""Caches that append and give back on a device that does not exist, see `tests/pretend.py`.

Rolling, sink and paged caches choose places by the numbers that they are given, and here there are no numbers.
"""

import torch

from minillm.config import Mla, Rope, preset
from minillm.inference.caches import chunk, int8, sinks
from minillm.model.gpt import GPT
from tests import pretend

SIZES = dict(vocab_size=11, d_model=16, n_heads=2, n_kv_heads=2, head_dim=8, max_seq_len=32, position=Rope())
LATENT = {"attention": Mla(kv_rank=6, rope_dim=4)}
CASES = {
    "contiguous": lambda: logits_in_pieces({}, lambda model: model.new_cache(2, 12)),
    "contiguous, latent": lambda: logits_in_pieces(LATENT, lambda model: model.new_cache(2, 12)),
    "int8": lambda: logits_in_pieces({}, lambda model: int8.int8_caches(model, 2, 12)),
    "eviction": lambda: sinks.evict_with_sinks(torch.empty(2, 9, 4, device="pretend"), 2, 3),
    "mask of a chunk": lambda: chunk.mask_for_chunk(2, 3, torch.ones(2, 5, dtype=torch.bool, device="pretend")),
    "left behind": lambda: torch.empty(2, device="pretend") + torch.zeros(2),  # a famous mistake, to be found out
}


def logits_in_pieces(changes, caches_of):
    r"""The last logits of a model on the device that reads a text in pieces of 3, 1, 1 and 4 tokens."""
    with torch.device("pretend"):
        model = GPT(preset("tiny", **SIZES, **changes)).eval()
    token_ids, cache = torch.zeros(2, 9, dtype=torch.int64, device="pretend"), caches_of(model)
    with torch.no_grad():
        return [model(piece, cache=cache) for piece in token_ids.split([3, 1, 1, 4], dim=1)][-1]


if __name__ == "__main__":
    pretend.tell_devices(CASES)
