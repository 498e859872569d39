r"""Texts that are written on a device that does not exist, see `tests/pretend_numbers.py`.

What is written there must be what is written on the CPU. Greedy texts are also looked for without a cache, beams that
share pages are compared with beams that share nothing, and constrained texts are held against their pattern.
"""

import re

import torch

from minillm.inference import penalties, stopping
from minillm.inference.beam import beam_search
from minillm.inference.caches import block_pool, paged
from minillm.inference.constrained.automaton import compile_regex
from minillm.inference.constrained.constraint import TokenConstraint
from minillm.inference.generate import generate
from minillm.text.characters import CharTokenizer
from tests import pretend_numbers
from tests.inference.caches.models import drawn_ids, model_of, model_on

PROMPTS, LENGTHS, N_NEW, STOPS = drawn_ids(11, 4, 5), (5, 2, 4, 5), 8, (3, 8)
REAL = torch.arange(5) >= 5 - torch.tensor(LENGTHS)[:, None]
DIGITS = CharTokenizer("0123456789;")  # as many as the models have tokens
PATTERN = r"[1-4]{2,3}(56)?[7-9]+0"
PROCESSORS = [
    lambda ids, logits: penalties.repetition_penalty(logits, ids, 1.3),
    lambda ids, logits: penalties.frequency_presence_penalty(logits, ids, 0.2, 0.1),
    lambda ids, logits: penalties.no_repeat_ngram(logits, ids, 2),
    stopping.at_least(2, STOPS, 5),
]


def written(device, kind="GQA", **options):
    r"""The prompts and what a model writes after them."""
    model = model_on(device, kind)
    torch.default_generator.manual_seed(5)  # random numbers of the device come from here too
    return generate(model, PROMPTS.to(device), N_NEW, padding_mask=REAL.to(device), **options)


def greedy_without_a_cache():
    r"""Row by row, each time the whole text again, without padding."""
    texts = []
    for row, length in zip(PROMPTS.tolist(), LENGTHS, strict=True):
        text = row[5 - length :]
        while len(text) < length + N_NEW and (len(text) == length or text[-1] not in STOPS):
            text.append(int(model_of("GQA")(torch.tensor([text]))[0, -1].argmax()))
        texts.append(row[: 5 - length] + text + [0] * (length + N_NEW - len(text)))
    return torch.tensor(texts)


def beams(device, paging=False, processors=(), stop_ids=STOPS):
    r"""The texts of a beam search, with their scores in the last column."""
    model, cache = model_on(device, "GQA"), None
    if paging:
        pool = block_pool.block_pool(model, 60, 2)
        cache = paged.paged_caches(model, 4, pool)
    texts, scores = beam_search(model, PROMPTS.to(device), N_NEW, n_beams=3, padding_mask=REAL.to(device), cache=cache,
                                processors=processors, stop_ids=stop_ids)
    assert not paging or pool.copies
    return torch.cat([texts, scores[:, :, None]], dim=2)


def constrained(device, searching=False):
    r"""What matches a pattern, drawn or searched for."""
    constraint = TokenConstraint(compile_regex(PATTERN), DIGITS, 5, max_new_tokens=N_NEW)
    if searching:
        found = beams(device, processors=[constraint], stop_ids=constraint.stop_ids)
        texts = found[:, 0, :-1].long()
    else:
        found = texts = written(device, processors=[constraint], stop_ids=constraint.stop_ids)
    assert all(re.fullmatch(PATTERN, constraint.read(text)) for text in texts)
    return found


CASES = {
    "greedy": lambda device: written(device, temperature=0.0, stop_ids=STOPS),
    "drawn": lambda device: written(device, "MLA", temperature=1.5),
    "filtered": lambda device: written(device, top_k=8, top_p=0.95, min_p=0.01, typical_p=0.9, stop_ids=STOPS),
    "penalties": lambda device: written(device, processors=PROCESSORS, stop_ids=STOPS),
    "beams": beams,
    "beams on pages": lambda device: beams(device, paging=True),
    "constrained": constrained,
    "constrained beams": lambda device: constrained(device, searching=True),
    "left behind": lambda device: written(device, processors=[lambda ids, logits: logits + torch.zeros(11)]),
}
ANOTHER_WAY = {"greedy": greedy_without_a_cache, "beams on pages": lambda: beams("cpu")}


if __name__ == "__main__":
    pretend_numbers.tell_numbers(CASES, ANOTHER_WAY)
