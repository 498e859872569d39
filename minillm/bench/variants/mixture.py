r"""Mixture: one small model on bytes of English and Chinese, in several shares; what each language costs it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from minillm.bench.variants import harness
from minillm.bench.variants.harness import Row
from minillm.model.gpt import GPT
from minillm.text import mixture
from minillm.text.bilingual import bilingual_sentences
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.training.loop import train

BATCH_SIZE, STEPS, SEQ_LEN = 16, 400, 64
N_SENTENCES = {"train": 6_000, "validation": 1_000}
SHARES = {"10 % Chinese": 0.1, "30 % Chinese": 0.3, "50 % Chinese": 0.5, "70 % Chinese": 0.7, "90 % Chinese": 0.9}


@cache
def both_languages(part: str) -> tuple[Tensor, Tensor]:
    r"""Sentences of the same content in two languages, as bytes.

    Args:
        part: `train` or `validation`; no sentence of the second stands in the first.
    Returns: English and Chinese, (n,) int64 each; do not change them in place.
    """
    train_pairs = bilingual_sentences(N_SENTENCES["train"], random.Random(0))
    pairs, known = train_pairs, set(train_pairs)
    if part == "validation":
        pairs = [pair for pair in bilingual_sentences(4 * N_SENTENCES[part], random.Random(1)) if pair not in known]
    sides = zip(*pairs[: N_SENTENCES[part]], strict=True)
    english, chinese = (torch.tensor(ByteTokenizer().encode("\n".join(side))) for side in sides)
    return english, chinese


def mixed_batches(chinese_share: float, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Windows of both languages without end.

    Args:
        chinese_share: the probability that a window is Chinese.
        seed: source of chance.
    Yields: inputs and targets, (B, T) each.
    """
    generator = torch.Generator().manual_seed(seed)
    shares = (1 - chinese_share, chinese_share)
    while True:
        yield mixture.mixed_batch(both_languages("train"), shares, SEQ_LEN, BATCH_SIZE, generator)


def measure_mixture(chinese_share: float, seed: int, steps: int = STEPS) -> dict[str, float]:
    r"""Train a model on a mixture, and measure it on each language.

    Args:
        chinese_share: of the windows in training.
        seed: of weights and batches.
        steps: of training; the same number of windows for every mixture.
    Returns: "English" and "Chinese", nats a byte on unseen sentences.
    """
    model = GPT(replace(harness.BASE, vocab_size=256, max_seq_len=SEQ_LEN), torch.Generator().manual_seed(seed))
    train(model, mixed_batches(chinese_share, seed), harness.small_recipe(steps), steps=steps, report_every=steps)
    costs = {}
    for name, token_ids in zip(("English", "Chinese"), both_languages("validation"), strict=True):
        rows = token_ids[: len(token_ids) // (SEQ_LEN + 1) * (SEQ_LEN + 1)].view(-1, SEQ_LEN + 1)[:256]
        costs[name] = float(harness.loss_by_position(model, rows, 64).mean())
    return costs


def mixture_table(seeds: Sequence[int]) -> list[Row]:
    r"""The table of mixtures.

    Args:
        seeds: runs of each mixture.
    Returns: a row a mixture.
    """
    return harness.run_table("mixture", SHARES, seeds, measure_mixture)
