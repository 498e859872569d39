r"""Positions: the loss at each position, far beyond the length that the model was trained at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from minillm.bench.variants import harness
from minillm.bench.variants.harness import BASE, Row
from minillm.config import Alibi, Learned, ModelConfig, NoPosition, Rope, Sinusoidal

TEST_LEN = 512
BUCKETS = {"32-64": (32, 64), "64-128": (64, 128), "128-256": (128, 256), "256-512": (256, 512)}

METHODS = {
    "none": replace(BASE, position=NoPosition()),
    "learned": replace(BASE, position=Learned()),
    "sinusoidal": replace(BASE, position=Sinusoidal()),
    "RoPE": replace(BASE, position=Rope()),
    "ALiBi": replace(BASE, position=Alibi()),
}


def bucket_losses(by_position: Sequence[float]) -> dict[str, float]:
    r"""Means over ranges of positions, and how much the last range lies above the first.

    Args:
        by_position: loss at each of `TEST_LEN` positions, from `harness.loss_by_position`.
    Returns: a mean a bucket, and `rise`.
    """
    means = {name: sum(by_position[start:end]) / (end - start) for name, (start, end) in BUCKETS.items()}
    return {**means, "rise": means["256-512"] - means["32-64"]}


def measure_positions(config: ModelConfig, seed: int) -> dict[str, Any]:
    r"""Train at `harness.TRAIN_LEN`, test at `TEST_LEN`.

    Args:
        config: the variant.
        seed: of the run.
    Returns: losses by bucket, in nats.
    """
    model = harness.train_variant(config, seed)
    return bucket_losses(harness.loss_by_position(model, harness.text_windows("validation", TEST_LEN)).tolist())


def positions_table(seeds: Sequence[int]) -> list[Row]:
    r"""Every way of telling a model where its tokens stand, trained at 64 tokens and tested at 512.

    Args:
        seeds: one run of each variant a seed.
    Returns: the rows.
    """
    return harness.run_table("positions", METHODS, seeds, measure_positions)
