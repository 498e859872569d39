r"""Pictures of lesson 18's second half, and the explorer: borders where the machine has them."""

import pytest
import torch
from matplotlib.figure import Figure

from minillm.course.scenes import margin_explorer, margin_pictures
from minillm.course.widgets import Explorer
from minillm.detours import kernels, patterns, svm


def line_machine() -> tuple[svm.Svm, torch.Tensor]:
    points = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [1.5, 1.0], [-1.5, 1.0]], dtype=torch.float64)
    labels = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    return svm.fit_svm(points, labels, kernels.linear_kernel, 100.0, tolerance=1e-9), labels


def test_border_edges_and_rings_are_the_machine_s():
    machine, labels = line_machine()
    figure = margin_pictures.decision_maps({"a": (machine, labels), "b": (machine, labels)})
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    axes = figure.axes[0]
    rings = axes.lines[-1]
    assert sorted(rings.get_xdata().tolist()) == [-0.5, 0.5]  # the outer two carry no weight
    borders = [contour for contour in axes.collections if len(contour.get_paths()) == 1][-3:]
    at = sorted(float(contour.get_paths()[0].vertices[:, 0].mean()) for contour in borders)
    assert at == pytest.approx([-0.5, 0.0, 0.5], abs=1e-6)


def test_the_grid_covers_the_plane():
    grid, side = margin_pictures.plane_points(2.0, 5)
    assert grid.shape == (25, 2) and side.tolist() == [-2, -1, 0, 1, 2]
    assert grid[0].tolist() == [-2, -2] and grid[1].tolist() == [-1, -2] and grid[-1].tolist() == [2, 2]


def test_the_lifted_points_are_parted_by_the_level_plane(fresh_seed: int):
    points, labels = patterns.two_circles(40, torch.Generator().manual_seed(fresh_seed), spread=0.0)
    figure = margin_pictures.lifted_picture(points, labels, lambda p: p.square().sum(1), 0.5)
    flat, space = figure.axes
    assert len(flat.lines) == 2 and len(space.collections) == 3
    heights = [torch.tensor(part._offsets3d[2]) for part in space.collections[:2]]
    assert bool((heights[0] < 0.5).all()) and bool((heights[1] > 0.5).all())


def test_every_choice_can_be_drawn():
    for pattern in patterns.PATTERNS:
        for kind in margin_explorer.KERNELS:
            figure = margin_explorer.margin_picture(pattern, kind, 10.0, 3, 0.1)
            assert isinstance(figure, Figure) and "support vectors" in figure.axes[0].get_title()
    with pytest.raises(ValueError, match="kind='cubic'"):
        margin_explorer.chosen_kernel("cubic", 1.0, 2)


def test_explorer_shows_what_the_lesson_says():
    r"""No line parts circles; a wide bell does; a narrow one learns its own points only."""
    (_, line, _), (_, _, wide), (narrow, own, new) = (
        margin_explorer.fitted("two circles", kind, gamma, 2, 10.0)
        for kind, gamma in (("linear", 1.0), ("RBF", 1.0), ("RBF", 1000.0))
    )
    assert line < 0.8 and wide > 0.9 and own > 0.99 and new < 0.8
    assert float(narrow.support.double().mean()) > 0.9


def test_explorer_redraws():
    explorer = Explorer(margin_explorer.margin_picture, "Points and a border", **margin_explorer.margin_controls())
    before = explorer.picture.value
    explorer.controls["gamma"].value = 100.0
    assert explorer.picture.value != before
