r"""AWQ: never worse than rounding to nearest on the text it has seen, and better where a feature is large."""

import pytest
import torch

from minillm.inference.quantization import affine, awq, int4


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def errors_of(weight: torch.Tensor, x: torch.Tensor, n_bits: int, group_size: int) -> tuple[float, float]:
    r"""Relative errors of the output: rounded to nearest, and by AWQ."""
    exact = x @ weight.T
    codes, scales, lows, factors = awq.awq_quantize(weight, x, n_bits, group_size)
    nearest = x @ int4.restore_int4(*affine.quantize_groups(weight, n_bits, group_size)).T
    scaled = (x / factors) @ int4.restore_int4(codes, scales, lows).T
    return affine.relative_error(exact, nearest), affine.relative_error(exact, scaled)


@pytest.mark.parametrize("n_bits, group_size", [(4, 8), (3, 24)])
def test_never_worse_on_the_text_it_has_seen(n_bits, group_size, fresh_seed):
    x, weight = drawn(fresh_seed, 40, 24) * drawn(fresh_seed + 1, 24).exp(), drawn(fresh_seed + 2, 9, 24)
    nearest, scaled = errors_of(weight, x, n_bits, group_size)
    assert scaled <= nearest * 1.0001


def test_better_where_some_features_are_large():
    r"""Two features of 32 that are 20 times as large: over 300 seeds 0.30 to 0.55 of the error was left."""
    x, weight = drawn(0, 100, 32), drawn(1, 24, 32)
    x[:, [5, 20]] *= 20
    nearest, scaled = errors_of(weight, x, 4, 32)
    assert scaled < 0.65 * nearest


def test_factors_are_powers_of_the_mean_size():
    x = torch.tensor([[1.0, -8.0, 2.0], [-3.0, 8.0, 2.0]])  # mean sizes 2, 8, 2
    torch.testing.assert_close(awq.awq_factors(x, 0.0), torch.ones(3))
    torch.testing.assert_close(awq.awq_factors(x, 1.0), torch.tensor([0.5, 2.0, 0.5]))
    torch.testing.assert_close(awq.awq_factors(x, 0.5), torch.tensor([0.5**0.5, 2.0**0.5, 0.5**0.5]))
    assert bool((awq.awq_factors(torch.zeros(2, 3), 0.7) == 1).all())


def test_features_of_one_size_are_rounded_to_nearest(fresh_seed):
    x = torch.randint(0, 2, (20, 12), generator=torch.Generator().manual_seed(fresh_seed)).float() * 2 - 1
    weight = drawn(fresh_seed + 1, 4, 12)
    codes, scales, lows, factors = awq.awq_quantize(weight, x, 4, 6)
    assert torch.equal(factors, torch.ones(12))
    for mine, theirs in zip((codes, scales, lows), affine.quantize_groups(weight, 4, 6), strict=True):
        assert torch.equal(mine, theirs)


def test_what_is_refused():
    with pytest.raises(ValueError, match="5 numbers"):
        awq.awq_quantize(torch.ones(2, 8), torch.ones(4, 8), 4, 5)
