r"""What all tables share: one text, one small model, one way of training it, one way of measuring it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from minillm.config import Init, Mlp, ModelConfig, Rope
from minillm.model.gpt import GPT
from minillm.text import batches, corpora
from minillm.text.characters import CharTokenizer
from minillm.training.loop import train
from minillm.training.recipe import Recipe

# Line feed and printable ASCII: the same token ids whatever the text. Other characters (1 in 800 here) become "?".
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))

# The model that every table starts from; a variant is `dataclasses.replace(BASE, ...)`.
BASE = ModelConfig(
    vocab_size=len(ALPHABET), max_seq_len=512, d_model=64, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16,
    ffn=Mlp(256), position=Rope(), init=Init(0.1, 0.05, "zero"))
TRAIN_LEN, BATCH_SIZE, STEPS = 64, 32, 400

Variant = TypeVar("Variant")


@dataclass(frozen=True)
class Row:
    r"""One line of a table.

    Args:
        name: the variant.
        values: measure -> what it gave with each seed, in the order of the seeds: a number, or a list of numbers.
    """

    name: str
    values: Mapping[str, Sequence[Any]]


@cache
def text_ids(part: str) -> Tensor:
    r"""The documentation of Python as token ids: its first nine tenths to train on, the rest to measure on.

    Args:
        part: `train` or `validation`.
    Returns: (n,) int64; do not change it in place.
    Raises:
        ValueError: if there is no such part.
    """
    if part not in ("train", "validation"):
        raise ValueError(f"part={part!r}: use 'train' or 'validation'")
    train_text, validation_text = corpora.split_text(corpora.python_docs())
    text = train_text if part == "train" else validation_text
    known = "".join(character if character in ALPHABET else "?" for character in text)
    return torch.tensor(CharTokenizer(ALPHABET).encode(known))


def text_windows(part: str, seq_len: int, n_windows: int | None = None) -> Tensor:
    r"""The text cut into windows that lie side by side, so that every character is a target at most once.

    Args:
        part: `train` or `validation`.
        seq_len: T, targets in a window.
        n_windows: how many, spread evenly over the text; None = all there are.
    Returns: (n_windows, T + 1) int64; inputs are [:, :-1], targets [:, 1:].
    Raises:
        ValueError: if there are not so many windows.
    """
    token_ids = text_ids(part)
    windows = token_ids[: len(token_ids) // (seq_len + 1) * (seq_len + 1)].view(-1, seq_len + 1)
    if n_windows is None:
        return windows
    if not 1 <= n_windows <= len(windows):
        raise ValueError(f"n_windows={n_windows}: the {part} text has {len(windows)} windows of {seq_len} tokens")
    return windows[torch.linspace(0, len(windows) - 1, n_windows).round().long()]


def text_batches(seed: int, train_len: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Random windows of the training text without end: the same ones for the same seed, whatever the model.

    Args:
        seed: source of chance.
        train_len: T, tokens in a window.
        batch_size: B.
    Yields: inputs and targets, (B, T) each, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield batches.next_token_batch(text_ids("train"), train_len, batch_size, generator)


def small_recipe(steps: int, learning_rate: float = 6e-3) -> Recipe:
    r"""How every variant is trained: AdamW in float32, a short warm-up, down to zero over the last 60 %.

    Args:
        steps: of the run.
        learning_rate: the largest one.
    Returns: the recipe.
    """
    return Recipe(learning_rate=learning_rate, warmup_steps=min(30, steps // 4), dtype="fp32")


def train_variant(
    config: ModelConfig,
    seed: int,
    *,
    train_len: int = TRAIN_LEN,
    batch_size: int = BATCH_SIZE,
    steps: int = STEPS,
    recipe: Recipe | None = None,
) -> GPT:
    r"""Train one variant: fresh weights and batches from the seed, the same budget for everyone.

    Args:
        config: the variant, usually `replace(BASE, ...)`.
        seed: of the weights and, apart from them, of the batches; all variants of a seed see the same batches.
        train_len: T, tokens in a window.
        batch_size: B.
        steps: of training.
        recipe: None = `small_recipe(steps)`.
    Returns: the model, in evaluation mode.
    """
    model = GPT(config, torch.Generator().manual_seed(seed))
    train(model, text_batches(seed, train_len, batch_size), recipe or small_recipe(steps), steps=steps,
          report_every=steps)
    return model


def with_config(model: GPT, **changes: Any) -> GPT:
    r"""The same weights in a model with another configuration, such as a RoPE scaled for longer texts.

    Args:
        model: the trained model; it is not changed.
        changes: fields of `ModelConfig` that change no weight's shape.
    Returns: a new model, in evaluation mode.
    """
    other = GPT(replace(model.config, **changes))
    other.load_state_dict(model.state_dict())
    return other.eval()


def loss_by_position(model: nn.Module, windows: Tensor, batch_size: int = 16) -> Tensor:
    r"""How surprised the model is at each position, averaged over windows.

    Args:
        model: token ids -> logits.
        windows: (N, T + 1) int64, from `text_windows`.
        batch_size: windows that go through the model at once.
    Returns: (T,) float64, nats; entry t is about the target that has t + 1 tokens before it.
    """
    total = torch.zeros(windows.shape[1] - 1, dtype=torch.float64)
    with torch.inference_mode():
        for rows in windows.split(batch_size):
            logits = model(rows[:, :-1]).float()
            total += F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").double().sum(0)
    return total / len(windows)


def mean_loss(model: nn.Module, seq_len: int = TRAIN_LEN) -> float:
    r"""The mean surprise on all of the validation text, in windows of seq_len.

    Args:
        model: token ids -> logits.
        seq_len: T.
    Returns: nats a character.
    """
    return float(loss_by_position(model, text_windows("validation", seq_len), 64).mean())


def run_table(
    name: str,
    variants: Mapping[str, Variant],
    seeds: Sequence[int],
    measure: Callable[[Variant, int], Mapping[str, Any]],
) -> list[Row]:
    r"""Measure every variant with every seed, with a progress bar.

    Args:
        name: of the table, for the progress bar.
        variants: name -> what `measure` takes, often a `ModelConfig`.
        seeds: e.g. [0, 1, 2].
        measure: (variant, seed) -> measure -> a number or a list of numbers.
    Returns: a row a variant, in order.
    """
    rows = []
    with tqdm(total=len(variants) * len(seeds), desc=name) as bar:
        for variant_name, variant in variants.items():
            values: dict[str, list[Any]] = {}
            for seed in seeds:
                bar.set_postfix_str(f"{variant_name}, seed {seed}")
                for key, value in measure(variant, seed).items():
                    values.setdefault(key, []).append(value)
                bar.update()
            rows.append(Row(variant_name, values))
    return rows
