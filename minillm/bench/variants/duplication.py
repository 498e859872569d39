r"""Duplication: the same small model on fresh stories, and on a few that are read again and again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minillm.bench.variants import harness
from minillm.bench.variants.harness import Row
from minillm.config import Learned, Mlp
from minillm.inference import generate
from minillm.layers import loss
from minillm.model import counting
from minillm.model.gpt import GPT
from minillm.text import batches
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import train_rows, validation_rows
from minillm.training.loop import train
from minillm.training.recipe import Recipe

BATCH_SIZE, STEPS, N_TEST = 32, 400, 256
POOLS = {"fresh stories": None, "4096 stories": 4096, "1024 stories": 1024, "256 stories": 256, "32 stories": 32}
PROMPT_LEN, COPIED_LEN = 8, 16  # words of a training story that the model is given, and that it should go on with


@cache
def pool_language() -> StoryLanguage:
    r"""The story language, made once."""
    return StoryLanguage()


def story_model(seed: int) -> GPT:
    r"""A fresh small model for stories.

    Args:
        seed: of its weights.
    Returns: the model.
    """
    language = pool_language()
    config = replace(
        harness.BASE, vocab_size=language.tokenizer.vocab_size, max_seq_len=language.max_len, position=Learned(),
        ffn=Mlp(256, activation="relu_squared"), n_heads=2, n_kv_heads=2, head_dim=32)
    return GPT(config, torch.Generator().manual_seed(seed))


def pool_batches(rows: Tensor | None, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Batches of stories without end.

    Args:
        rows: the stories to draw from, (n, T + 1), so that each comes again and again; None = always fresh ones.
        generator: source of chance.
    Yields: inputs and targets, (B, T) each.
    """
    language = pool_language()
    while True:
        if rows is None:
            yield batches.story_batch(language, BATCH_SIZE, generator)
        else:
            drawn = rows[torch.randint(len(rows), (BATCH_SIZE,), generator=generator)]
            yield batches.shift_rows(drawn, language.tokenizer.pad_id)


def train_on_pool(n_stories: int | None, seed: int, steps: int = STEPS) -> tuple[GPT, Tensor]:
    r"""Train a small model on so many stories.

    Args:
        n_stories: how many there are; None = a fresh one each time.
        seed: of weights, stories and batches.
        steps: of training, 32 stories each, however many there are.
    Returns: the model, and up to N_TEST of the stories that it was trained on (of fresh ones, others of that kind).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = train_rows(pool_language(), n_stories or N_TEST, generator)
    model = story_model(seed)
    recipe = Recipe(learning_rate=4e-3, warmup_steps=min(30, steps // 4), dtype="fp32")
    pool = rows if n_stories else None
    train(model, pool_batches(pool, generator), recipe, steps=steps, report_every=steps)
    return model, rows[:N_TEST]


def nats_a_story(model: GPT, rows: Tensor) -> float:
    r"""What stories cost a model.

    Args:
        model: token ids -> logits.
        rows: the stories, (n, T + 1).
    Returns: nats a story, on average.
    """
    inputs, targets = batches.shift_rows(rows, pool_language().tokenizer.pad_id)
    with torch.no_grad():
        mean = float(loss.cross_entropy(model(inputs), targets))
    return mean * int((targets != -100).sum()) / len(rows)


def copied_share(model: GPT, rows: Tensor) -> float:
    r"""How many stories a model goes on with word for word.

    Args:
        model: token ids -> logits.
        rows: stories, (n, T + 1); the first 64 are taken.
    Returns: the share of stories whose next COPIED_LEN words the model writes after PROMPT_LEN of them, always taking
        the likeliest word.
    """
    rows = rows[:64]
    written = generate.generate(model, rows[:, :PROMPT_LEN], COPIED_LEN, temperature=0.0)
    return (written == rows[:, : PROMPT_LEN + COPIED_LEN]).all(1).double().mean().item()


def measure_pool(n_stories: int | None, seed: int, steps: int = STEPS) -> dict[str, Any]:
    r"""Train on a pool, and look at stories of the training and at others.

    Args:
        n_stories: stories in the pool; None = fresh ones.
        seed: of everything.
        steps: of training.
    Returns: "seen" and "new" in nats a story, "copied", "parameters", "times each story was read".
    """
    model, rows = train_on_pool(n_stories, seed, steps)
    return {
        "seen": nats_a_story(model, rows),
        "new": nats_a_story(model, validation_rows(pool_language(), N_TEST, seed=0)),
        "copied": copied_share(model, rows),
        "parameters": counting.count_parameters(model.config)["total"],
        "times each was read": steps * BATCH_SIZE / n_stories if n_stories else 1,
    }


def duplication_table(seeds: Sequence[int]) -> list[Row]:
    r"""The table of duplication.

    Args:
        seeds: runs of each variant.
    Returns: a row a pool.
    """
    return harness.run_table("duplication", POOLS, seeds, measure_pool)
