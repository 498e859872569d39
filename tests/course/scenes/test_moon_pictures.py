r"""Pictures of lesson 18's first half show the moons, codes and places that they were given."""

import pytest
import torch
from matplotlib.patches import Circle, Ellipse

from minillm.course.scenes.moon_pictures import latent_maps, moon_rows, plane_of_moons
from minillm.detours import moons


def test_a_row_a_name_and_a_picture_a_moon():
    drawn = moons.draw_moons(torch.linspace(0, 1, 5))
    (axes,) = moon_rows({"a": drawn, "b": drawn[:3]}, {"b": ["1.0", "2.0", "3.0"]}).axes
    assert len(axes.images) == 8 and sum(isinstance(patch, Circle) for patch in axes.patches) == 8
    third = axes.images[2]
    assert torch.equal(torch.tensor(third.get_array()).flatten(), drawn[2])
    assert third.get_extent()[0] == pytest.approx(2.02) and axes.images[5].get_extent()[3] > third.get_extent()[2]
    assert [text.get_text() for text in axes.texts] == ["a", "1.0", "2.0", "3.0", "b"]


def test_codes_lie_where_they_are_and_bells_are_as_wide_as_two_sigma(fresh_seed: int):
    codes = 2 * torch.randn(10, 2, generator=torch.Generator().manual_seed(fresh_seed))
    widths = torch.full((10, 2), 0.25)
    figure = latent_maps({"plain": (codes, None), "bells": (codes, widths)}, torch.linspace(0, 1, 10))
    plain, bells, _ = figure.axes
    for axes in (plain, bells):
        assert torch.allclose(torch.tensor(axes.collections[0].get_offsets()).float(), codes)
        low, high = axes.get_xlim()
        assert low < float(codes.min()) and high > float(codes.max())
    assert [type(patch) for patch in plain.patches] == [Circle, Circle]
    drawn = [patch for patch in bells.patches if type(patch) is Ellipse]
    assert len(drawn) == 10 and {patch.width for patch in drawn} == {0.5}


def test_the_plane_is_the_right_way_up():
    def decode(z: torch.Tensor) -> torch.Tensor:
        return z[:, :1].repeat(1, 16) + 10 * z[:, 1:].repeat(1, 16)

    codes = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    (axes,) = plane_of_moons({"a": (decode, codes)}, reach=2.0, n_side=5).axes
    tiled = torch.tensor(axes.images[0].get_array())
    assert tiled.shape == (20, 20)
    assert tiled[0, 0] == -2 + 20 and tiled[-1, -1] == 2 - 20  # left above, right below
    assert axes.images[0].get_extent() == pytest.approx((-2.5, 2.5, -2.5, 2.5))
