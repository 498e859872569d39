r"""Positions: the loss at each position, far beyond the length that the model was trained at.

Every method trains the same model on the same batches, in windows of 64 characters, and is tested on windows of 512.
What the rows mean where it is not plain:

- sinusoidal: with embeddings times sqrt(D), as in the paper. Sines and cosines have a length of sqrt(D / 2); beside
  them embeddings that begin as small as ours are hardly heard, as the row "+ unscaled embeddings" shows.
- learned: the table has 512 rows, of which training sees 64; the others are still the random numbers they began as.
- T5: there are two rows, because with T5's own max_distance of 128 the buckets from distance 67 on are never trained.
  With a max_distance of 32 the last bucket, which takes all greater distances, is trained well.
- RoPE with PI, NTK, YaRN, dynamic NTK or a window: the weights of the RoPE row; only the test differs. The factor is
  8, as much longer as the test is; "NTK for 16x" has twice that. "tuned": and then trained 50 steps more on windows of
  512, with as many characters a step as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from minillm.bench.variants import harness
from minillm.bench.variants.harness import BASE, BATCH_SIZE, TRAIN_LEN, Row
from minillm.config import (
    Alibi,
    AttentionOptions,
    DynamicNtk,
    Ends,
    Learned,
    ModelConfig,
    NoPosition,
    NtkAware,
    PositionInterpolation,
    Recursive,
    Rope,
    Shaw,
    Sinusoidal,
    T5Bias,
    TransformerXL,
    Yarn,
)
from minillm.model.gpt import GPT
from minillm.training.loop import train

TEST_LEN = 512
FACTOR = TEST_LEN / TRAIN_LEN
TUNING_STEPS = 50
BUCKETS = {"32-64": (32, 64), "64-128": (64, 128), "128-256": (128, 256), "256-512": (256, 512)}
CURVE_STEP = 16  # positions that a point of the stored curve averages over

METHODS = {
    "none": NoPosition(),
    "learned": Learned(),
    "sinusoidal": Sinusoidal(),
    "recursive": Recursive(),
    "Shaw": Shaw(max_distance=16),
    "Transformer-XL": TransformerXL(),
    "T5, buckets to 128": T5Bias(n_buckets=32, max_distance=128),
    "T5, buckets to 32": T5Bias(n_buckets=32, max_distance=32),
    "ALiBi": Alibi(),
    "RoPE": Rope(),
}
SCALINGS = {
    "PI": PositionInterpolation(FACTOR),
    "NTK": NtkAware(FACTOR),
    "NTK for 16x": NtkAware(2 * FACTOR),
    "dynamic NTK": DynamicNtk(1.0, TRAIN_LEN),
    "YaRN": Yarn(FACTOR, TRAIN_LEN),
}


@dataclass(frozen=True)
class PositionVariant:
    r"""A row of the table.

    Args:
        trained: the configuration that is trained at the short length.
        tested: the same with what is changed before the test.
        tuning_steps: steps of training at the long length, after the change.
    """

    trained: ModelConfig
    tested: ModelConfig
    tuning_steps: int = 0


def position_variants() -> dict[str, PositionVariant]:
    r"""Every row of the table by its name.

    Returns: the methods, then what can be done to a trained RoPE, then the same with a little tuning.
    """
    found = {name: replace(BASE, position=position) for name, position in METHODS.items()}
    found["sinusoidal + unscaled embeddings"] = found["sinusoidal"]
    found["sinusoidal"] = replace(found["sinusoidal"], ends=Ends(embedding_scale=BASE.d_model**0.5))
    rows = {name: PositionVariant(config, config) for name, config in found.items()}
    trained = found["RoPE"]
    changed = {f"RoPE + {name}": replace(trained, position=Rope(scaling=scaling)) for name, scaling in SCALINGS.items()}
    changed[f"RoPE + window of {TRAIN_LEN}"] = replace(trained, attention=AttentionOptions(window=TRAIN_LEN))
    rows |= {name: PositionVariant(trained, tested) for name, tested in changed.items()}
    for name in ("RoPE", "RoPE + PI", "RoPE + NTK", "RoPE + YaRN"):
        rows[f"{name}, tuned"] = PositionVariant(trained, changed.get(name, trained), TUNING_STEPS)
    return rows


def growing_loss(model: GPT, windows: torch.Tensor, step: int = 32) -> torch.Tensor:
    r"""The loss at each position of a text that grows, for a model whose angles change with the length seen.

    A single pass would treat the first words as if the whole text were there already. For any other model both are the
    same.

    Args:
        model: token ids -> logits.
        windows: (N, T + 1) int64.
        step: tokens by which the text grows from pass to pass.
    Returns: (T,) float64, nats.
    """
    pieces = []
    for start in range(0, windows.shape[1] - 1, step):
        until = windows[:, : start + step + 1]
        pieces.append(harness.loss_by_position(model, until)[start:])
    return torch.cat(pieces)


def bucket_losses(by_position: Sequence[float]) -> dict[str, Any]:
    r"""Means over ranges of positions, how much the last range lies above the first, and a curve.

    Args:
        by_position: loss at each of `TEST_LEN` positions.
    Returns: a mean a bucket, `rise`, and `curve`: means over `CURVE_STEP` positions each.
    """
    def mean(start: int, end: int) -> float:
        return sum(by_position[start:end]) / (end - start)

    means = {name: mean(*bucket) for name, bucket in BUCKETS.items()}
    curve = [mean(start, start + CURVE_STEP) for start in range(0, len(by_position), CURVE_STEP)]
    return {**means, "rise": means["256-512"] - means["32-64"], "curve": curve}


def measure_position(variant: PositionVariant, seed: int) -> dict[str, Any]:
    r"""Train at the short length, change, tune if wanted, and test at the long length.

    Args:
        variant: the row.
        seed: of the run.
    Returns: what `bucket_losses` gives, and `n_params`.
    """
    tested = variant.tested
    model = harness.with_config(
        _trained(variant.trained, seed), position=tested.position, attention=tested.attention)
    if variant.tuning_steps:
        batches = harness.text_batches(seed + 1000, TEST_LEN, BATCH_SIZE * TRAIN_LEN // TEST_LEN)
        recipe = harness.small_recipe(variant.tuning_steps, 1e-3)
        train(model, batches, recipe, steps=variant.tuning_steps, report_every=variant.tuning_steps)
    windows = harness.text_windows("validation", TEST_LEN)
    grows = isinstance(tested.position, Rope) and tested.position.depends_on_length()
    losses = growing_loss(model, windows) if grows else harness.loss_by_position(model, windows)
    n_params = sum(parameter.numel() for parameter in model.parameters())
    return {**bucket_losses(losses.tolist()), "n_params": n_params}


@lru_cache(maxsize=16)  # RoPE's weights serve many rows; nobody changes them
def _trained(config: ModelConfig, seed: int) -> GPT:
    return harness.train_variant(config, seed)


def positions_table(seeds: Sequence[int]) -> list[Row]:
    r"""Every way of telling a model where its tokens stand, trained at 64 tokens and tested at 512.

    Args:
        seeds: one run of each variant a seed.
    Returns: the rows.
    """
    return harness.run_table("positions", position_variants(), seeds, measure_position)
