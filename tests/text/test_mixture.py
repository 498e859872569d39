"""Shares of a mixture, and batches that keep to them."""

import random

import pytest
import torch

from minillm.text.mixture import mixed_batch, mixture_shares


def test_shares_lie_between_size_and_equality(fresh_seed: int):
    rng = random.Random(fresh_seed)
    counts = [rng.randint(1, 10**9) for _ in range(rng.randint(2, 6))]
    total = sum(counts)
    assert mixture_shares(counts, 1.0).tolist() == pytest.approx([count / total for count in counts])
    assert mixture_shares(counts, 0.0).tolist() == pytest.approx([1 / len(counts)] * len(counts))
    exponent = rng.random()
    shares = mixture_shares(counts, exponent).tolist()
    assert sum(shares) == pytest.approx(1)
    assert shares[0] / shares[1] == pytest.approx((counts[0] / counts[1]) ** exponent)


@pytest.mark.parametrize("counts", [[], [5, 0], [-1]])
def test_empty_collections_are_refused(counts: list[int]):
    with pytest.raises(ValueError, match="token_counts="):
        mixture_shares(counts, 0.5)


def test_batches_keep_to_the_shares(fresh_seed: int):
    low, high = torch.arange(0, 50), torch.arange(100, 200)
    generator = torch.Generator().manual_seed(fresh_seed)
    drawn = [mixed_batch([low, high], (0.8, 0.2), 5, 30, generator) for _ in range(40)]
    for inputs, targets in drawn:
        assert inputs.shape == targets.shape == (30, 5)
        assert torch.equal(inputs + 1, targets), "every window is a piece of one collection"
    share = torch.cat([inputs for inputs, _ in drawn])[:, 0].lt(100).double().mean().item()
    assert abs(share - 0.8) < 0.06
    inputs, _ = mixed_batch([low, high], (0.0, 1.0), 5, 8, generator)
    assert int(inputs.min()) >= 100, "a share of 0 is nothing at all"
    with pytest.raises(ValueError, match="shares has 1 numbers for 2"):
        mixed_batch([low, high], [1.0], 5, 8, generator)
