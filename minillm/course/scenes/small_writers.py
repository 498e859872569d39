r"""The models of lesson 09: writers that learn Python's documentation in seconds, and copiers that learn to copy."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from minillm.config import Init, Mlp, ModelConfig, Rope
from minillm.model.gpt import GPT
from minillm.text import batches
from minillm.training.loop import train
from minillm.training.recipe import Recipe

# Wide fresh weights: the small models of this course learn faster from them (lesson 06 measures it).
WRITER = ModelConfig(
    vocab_size=512, max_seq_len=256, d_model=64, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16, ffn=Mlp(256),
    position=Rope(), init=Init(0.1, 0.05, "zero"))
SYMBOLS = 32
COPIER = replace(
    WRITER, vocab_size=SYMBOLS, n_heads=2, n_kv_heads=2, head_dim=32, ffn=Mlp(64), position=Rope(base=100.0),
    tie_embeddings=False, init=Init(1.0, 0.1, "plain"))
SHORTEST, LONGEST = 12, 20  # symbols until a copier's text begins again


def train_writer(token_ids: Tensor, vocab_size: int, seed: int, steps: int = 160) -> GPT:
    r"""Train a model on windows of a text.

    Args:
        token_ids: the text, (n,), int64.
        vocab_size: of its tokenizer.
        seed: of the weights and of the windows.
        steps: of training, with 12 windows of 64 tokens each.
    Returns: the model, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    model = GPT(replace(WRITER, vocab_size=vocab_size), generator)

    def windows() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield batches.next_token_batch(token_ids, 64, 12, generator)

    return _trained(model, windows(), steps)


def repeated_symbols(batch_size: int, seq_len: int, generator: torch.Generator) -> Tensor:
    r"""Random symbols that begin again after a random number of places, another in each row.

    Args:
        batch_size: B.
        seq_len: T.
        generator: the source of chance; it is advanced.
    Returns: (B, T), int64.
    """
    periods = torch.randint(SHORTEST, LONGEST + 1, (batch_size, 1), generator=generator)
    symbols = torch.randint(SYMBOLS, (batch_size, LONGEST), generator=generator)
    return symbols.gather(1, torch.arange(seq_len) % periods)


def train_copier(n_layers: int, seed: int, steps: int = 200) -> GPT:
    r"""Train a model on texts in which nothing can be foretold but what has been said before.

    Args:
        n_layers: 1 or more; copying needs 2.
        seed: of the weights and of the texts.
        steps: of training, with 24 texts of 40 symbols each.
    Returns: the model, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    model = GPT(replace(COPIER, n_layers=n_layers), generator)

    def texts() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            text = repeated_symbols(24, 41, generator)
            yield text[:, :-1], text[:, 1:].contiguous()

    return _trained(model, texts(), steps)


def _trained(model: GPT, examples: Iterator[tuple[Tensor, Tensor]], steps: int) -> GPT:
    recipe = Recipe(learning_rate=8e-3, warmup_steps=min(30, steps // 4), dtype="fp32")
    train(model, examples, recipe, steps=steps, report_every=steps)
    return model
