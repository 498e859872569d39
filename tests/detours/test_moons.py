r"""Drawn moons: dark at new, the whole disc at full, and a picture that changes evenly in between."""

import math

import pytest
import torch

from minillm.detours import moons


def test_new_is_dark_and_full_is_the_disc():
    for size in (8, 16, 25):
        new, full = moons.draw_moons(torch.tensor([0.0, 0.5], dtype=torch.float64), size)
        assert new.shape == (size * size,) and float(new.abs().max()) == 0.0
        area = float(full.sum()) * (2 / size) ** 2
        assert area == pytest.approx(math.pi * moons.RADIUS**2, rel=0.02)


def test_the_first_quarter_is_lit_on_the_right_and_the_last_on_the_left():
    first, full, last = (moon.view(16, 16) for moon in moons.draw_moons(torch.tensor([0.25, 0.5, 0.75])))
    assert torch.equal(first[:, 8:], full[:, 8:]) and float(first[:, :8].abs().max()) == 0.0
    assert torch.allclose(full, full.flip(1)) and torch.allclose(first, first.flip(0))
    assert torch.equal(last, first.flip(1))


def test_a_month_ends_as_it_began_and_no_moon_jumps():
    drawn = moons.draw_moons(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert torch.equal(drawn[0], drawn[-1])
    assert float((drawn[1:] - drawn[:-1]).square().sum(1).max()) < 0.05


def test_a_moon_waxes_and_wanes(fresh_seed: int):
    generator = torch.Generator().manual_seed(fresh_seed)
    phases = torch.rand(200, generator=generator, dtype=torch.float64).sort().values
    drawn = moons.draw_moons(phases)
    waxing, waning = drawn[phases <= 0.5], drawn[phases > 0.5]
    assert bool((waxing[1:] >= waxing[:-1]).all()) and bool((waning[1:] <= waning[:-1]).all())
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    brightness = drawn.sum(1) / moons.draw_moons(torch.full((1,), 0.5, dtype=torch.float64)).sum()
    assert float((brightness - moons.lit_share(phases)).abs().max()) < 0.1


def test_a_moon_is_found_by_its_phase(fresh_seed: int):
    generator = torch.Generator().manual_seed(fresh_seed)
    phases = 0.05 + 0.4 * torch.rand(20, generator=generator) + torch.tensor([0.0, 0.5]).repeat(10)
    pictures = moons.draw_moons(phases)
    distances, found = moons.nearest_moon(pictures)
    assert float((found - phases).abs().max()) <= 1.5 / (moons.CATALOGUE - 1)
    catalogue = moons.draw_moons(torch.linspace(0, 1, moons.CATALOGUE))
    by_hand = [min(float((picture - other).square().sum()) for other in catalogue) for picture in pictures[:3]]
    assert distances[:3].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_a_mixture_is_far_from_every_moon():
    distance, _ = moons.nearest_moon(moons.draw_moons(torch.tensor([0.5])) / 2)
    assert float(distance) > 20


def test_bad_moons_are_refused():
    with pytest.raises(ValueError, match="0..1"):
        moons.draw_moons(torch.tensor([0.5, 1.2]))
    with pytest.raises(ValueError, match="size=3"):
        moons.draw_moons(torch.tensor([0.5]), 3)
    with pytest.raises(ValueError, match="no square"):
        moons.nearest_moon(torch.zeros(2, 200))
