r"""Speeds as ratios to a yardstick that had its turn in the same round."""

from collections.abc import Sequence
from statistics import median
from typing import Any


def paired_speeds(seconds: Sequence[float], yardstick: Sequence[float], n_tokens: int) -> dict[str, Any]:
    r"""How fast a contestant was, beside the yardstick of the same rounds.

    Args:
        seconds: that it took in each round.
        yardstick: that the yardstick took in each.
        n_tokens: that were done in a round.
    Returns: `tokens_per_s` (median), `ratio` to the yardstick (median over the rounds), and all the `ratios`.
    """
    ratios = [theirs / own for own, theirs in zip(seconds, yardstick, strict=True)]
    return {"tokens_per_s": round(n_tokens / median(seconds), 1), "ratio": round(median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios]}
