r"""Filters, penalties and a step of beams on a device that does not exist, see `tests/pretend.py`."""

import torch

from minillm.inference import beam, penalties, sampling, stopping
from minillm.inference.beam_cache import BeamCache
from tests import pretend

CASES = {
    "temperature": lambda logits, ids: sampling.apply_temperature(logits, 0.7),
    "top-k": lambda logits, ids: sampling.top_k_filter(logits, 3),
    "top-p": lambda logits, ids: sampling.top_p_filter(logits, 0.7),
    "min-p": lambda logits, ids: sampling.min_p_filter(logits, 0.1),
    "typical": lambda logits, ids: sampling.typical_filter(logits, 0.7),
    "repetition": lambda logits, ids: penalties.repetition_penalty(logits, ids, 1.3),
    "counts": lambda logits, ids: penalties.frequency_presence_penalty(logits, ids, 0.1, 0.2),
    "no-repeat": lambda logits, ids: penalties.no_repeat_ngram(logits, ids, 2),
    "least length": lambda logits, ids: stopping.at_least(9, [1, 2], 3)(ids, logits),
    "beam step": lambda logits, ids: torch.stack([part.float() for part in beam.beam_step(
        logits[:, :2], logits[:, None].expand(-1, 2, -1), 3)]),
    "beam cache": lambda logits, ids: kept_by_a_cache(logits),
    "left behind": lambda logits, ids: logits + torch.zeros(logits.shape[-1]),  # a famous mistake, to be found out
}


def kept_by_a_cache(x):
    r"""What a cache gives back after its rows have been exchanged."""
    cache, k = BeamCache(4), x[:, None, None, :].expand(-1, 1, 2, -1)
    cache.append(k, k, torch.arange(2, device=x.device))
    cache.choose(torch.zeros(3, dtype=torch.int64, device=x.device))
    k = k[:1].expand(3, -1, -1, -1)
    return cache.append(k, k, torch.arange(2, 4, device=x.device))[2]


def logits_and_ids():
    r"""What every function is called with."""
    return torch.empty(2, 9, device="pretend"), torch.empty(2, 5, dtype=torch.int64, device="pretend")


if __name__ == "__main__":
    pretend.tell_devices(CASES, logits_and_ids)
