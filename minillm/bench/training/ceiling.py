r"""How far a training step is from the fastest that the machine multiplies."""

import math
import time
from collections.abc import Iterable

import torch

from minillm.bench.training.settings import Setting
from minillm.training.precision import DTYPES

SIZE, TRIALS = 2048, 5


def product_flops(setting: Setting, vocab_size: int) -> int:
    r"""Floating-point operations that the matrix products of one training step cannot do without.

    Two for each weight and token in the forward pass, four in the backward pass, which multiplies once for the input
    and once for the weight; the same for attention, where a token meets those up to itself, as queries with keys and as
    weights with values. What somebody computes twice, or masks after having computed it, does not count.

    Args:
        setting: sizes.
        vocab_size: V, of the head; reading an embedding is no product.
    Returns: their number.
    """
    weights = 12 * setting.n_layers * setting.d_model**2 + vocab_size * setting.d_model
    pairs = setting.n_layers * setting.seq_len * (setting.seq_len + 1) // 2
    return 6 * setting.batch_size * (weights * setting.seq_len + 2 * pairs * setting.d_model)


def peak_gflops(dtypes: Iterable[str]) -> dict[str, float]:
    r"""What this machine reaches in a large matrix product, with as many threads as torch now has.

    Args:
        dtypes: some of `fp32`, `bf16` and `fp16`.
    Returns: 10^9 operations a second by dtype; the best of a few trials, taken in turns.
    """
    matrices = {name: torch.ones(SIZE, SIZE, dtype=DTYPES[name]) for name in sorted(dtypes)}
    seconds = dict.fromkeys(matrices, math.inf)
    for trial in range(1 + TRIALS):
        for name, matrix in matrices.items():
            start = time.perf_counter()
            matrix @ matrix
            if trial > 0:  # the first one prepares the product
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return {name: round(2e-9 * SIZE**3 / best, 1) for name, best in seconds.items()}
