r"""A model and batches small enough for thousands of steps in a test."""

from collections.abc import Iterator

import torch
from torch import Tensor

from minillm.config import Mlp, preset
from minillm.model.gpt import GPT
from minillm.text.words import WordTokenizer
from minillm.training import checkpoint
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState

WORDS = [f"w{i}" for i in range(16)]
VOCAB = len(WORDS) + 3


def small_model(seed: int, **changes) -> GPT:
    r"""One block of width 16 over 19 tokens."""
    sizes = dict(vocab_size=VOCAB, max_seq_len=12, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8)
    config = preset("tiny", **{**sizes, "ffn": Mlp(32, "relu_squared"), **changes})
    return GPT(config, torch.Generator().manual_seed(seed))


def small_tokenizer() -> WordTokenizer:
    r"""The tokenizer of `small_model`."""
    return WordTokenizer(WORDS)


def counting_batches(generator: torch.Generator, batch_size: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Rows that count upwards from a random number, of unequal lengths, without end: easy to learn."""
    while True:
        starts = torch.randint(3, VOCAB, (batch_size, 1), generator=generator)
        rows = 3 + (starts + torch.arange(11)) % (VOCAB - 3)
        n_counted = torch.randint(1, 11, (batch_size, 1), generator=generator)
        targets = rows[:, 1:].masked_fill(torch.arange(10) >= n_counted, -100)
        yield rows[:, :-1], targets


def save_small(directory, seed: int = 0, steps: int = 2, about=None) -> TrainingState:
    r"""A small run's checkpoint."""
    model, generator = small_model(seed), torch.Generator().manual_seed(seed)
    state = train(model, counting_batches(generator), Recipe(dtype="fp32"), steps=steps)
    checkpoint.save(directory, state, small_tokenizer(), generator=generator, about=about)
    return state
