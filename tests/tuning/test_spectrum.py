r"""The spectrum of a change against matrices whose singular values are known, and against random competitors."""

import pytest
import torch

from minillm.tuning import spectrum


def with_values(values: torch.Tensor, d_out: int, d_in: int, generator: torch.Generator) -> torch.Tensor:
    r"""A matrix with these singular values, in random directions."""
    left, right = (torch.linalg.qr(torch.randn(n, len(values), generator=generator, dtype=torch.float64))[0]
                   for n in (d_out, d_in))
    return (left * values) @ right.T


def drawn(seed: int) -> tuple[torch.Generator, torch.Tensor, torch.Tensor]:
    r"""A generator, known singular values, falling, and a matrix of them."""
    generator = torch.Generator().manual_seed(seed)
    n, more, other = torch.randint(3, 12, (3,), generator=generator).tolist()
    values = (torch.rand(n, generator=generator, dtype=torch.float64) + 0.1).sort(descending=True).values
    d_out, d_in = (n, n + more) if other % 2 else (n + more, n)
    return generator, values, with_values(values, d_out, d_in, generator)


def test_singular_values_are_those_it_was_made_of(fresh_seed: int) -> None:
    _, values, change = drawn(fresh_seed)
    torch.testing.assert_close(spectrum.singular_values(change), values)
    torch.testing.assert_close(spectrum.singular_values(change.T), values)
    of_trained = spectrum.singular_values(change.float().requires_grad_())
    assert not of_trained.requires_grad and of_trained.dtype == torch.float64


def test_rank_error_is_what_the_best_change_misses(fresh_seed: int) -> None:
    generator, values, change = drawn(fresh_seed)
    errors = spectrum.rank_error(change)
    assert errors.shape == (len(values) + 1,) and errors[0] == 1 and errors[-1] == 0
    assert bool((errors.diff() < 0).all())
    for rank in range(len(values) + 1):
        best = spectrum.best_change(change, rank)
        missed = (change - best).norm() / change.norm()
        torch.testing.assert_close(missed, errors[rank], atol=1e-12, rtol=1e-9)
        assert torch.linalg.matrix_rank(best) == rank
        if rank:  # nobody is better: random factors of this rank, the second of them fitted by least squares
            lora_a = torch.randn(rank, change.shape[1], generator=generator, dtype=torch.float64)
            fitted = change @ torch.linalg.pinv(lora_a) @ lora_a
            assert (change - fitted).norm() / change.norm() >= errors[rank] - 1e-12


def test_effective_rank_counts_directions(fresh_seed: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed)
    n = int(torch.randint(1, 9, (), generator=generator))
    equal = with_values(torch.full((n,), 3.0, dtype=torch.float64), 12, 10, generator)
    assert spectrum.effective_rank(equal) == pytest.approx(n)
    _, values, change = drawn(fresh_seed)
    effective = spectrum.effective_rank(change)
    assert 1 < effective < len(values)
    assert spectrum.effective_rank(7 * change) == pytest.approx(effective)
    shares = values / values.sum()
    assert effective == pytest.approx(float(torch.prod(shares ** -shares)))
    assert spectrum.effective_rank(torch.zeros(3, 4)) == 0


def test_rank_for_error_is_the_first_that_is_good_enough(fresh_seed: int) -> None:
    _, values, change = drawn(fresh_seed)
    errors = spectrum.rank_error(change).tolist()
    for rank in range(1, len(values) + 1):
        between = (errors[rank - 1] + errors[rank]) / 2
        assert spectrum.rank_for_error(change, between) == rank
    assert spectrum.rank_for_error(change, 1.0) == 0
    assert spectrum.rank_error(torch.zeros(2, 3)).tolist() == [0, 0, 0]


def test_what_is_no_change_is_refused() -> None:
    for wrong in (torch.zeros(3), torch.zeros(2, 3, 4), torch.tensor([[1.0, float("nan")]])):
        with pytest.raises(ValueError, match="one matrix of finite numbers"):
            spectrum.singular_values(wrong)
    for rank in (-1, 3):
        with pytest.raises(ValueError, match=f"rank={rank}: use 0 to 2"):
            spectrum.best_change(torch.zeros(2, 3), rank)
    with pytest.raises(ValueError, match=r"error=1\.5"):
        spectrum.rank_for_error(torch.zeros(2, 3), 1.5)
