r"""Pictures of lesson 18's second half: borders and margins in the plane, and the plane lifted into space."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import COLOURS, DOTS_PER_INCH, INK, new_figure
from minillm.detours.svm import Svm

SIDES = LinearSegmentedColormap.from_list("sides", ["#F6C65B", "#FBEBC8", "#FFFFFF", "#CFE5F3", "#6FB1DC"])
LOOKS = {1.0: {"color": COLOURS[0], "marker": "o"}, -1.0: {"color": COLOURS[1], "marker": "s"}}
REACH = 1.6  # the plane is drawn from -REACH to REACH
FINENESS = 81  # points a side at which a border is computed


def plane_points(reach: float = REACH, n_side: int = FINENESS) -> tuple[Tensor, Tensor]:
    r"""Lay a grid over the plane.

    Args:
        reach: from -reach to reach, both ways.
        n_side: points a side.
    Returns: the points, (n_side * n_side, 2), row after row from below; and the coordinates of a side, (n_side,).
    """
    side = torch.linspace(-reach, reach, n_side, dtype=torch.float64)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1), side


def draw_decision(axes: Axes, machine: Svm, labels: Float[Tensor, "N"], title: str) -> None:
    r"""Draw which side is which, the border, the edges of the margin and the support vectors.

    Args:
        axes: the panel.
        machine: trained on points of the plane.
        labels: of those points.
        title: above the panel.
    """
    grid, side = plane_points()
    value = machine.decision(grid).view(FINENESS, FINENESS).numpy()
    axes.contourf(side, side, value.clip(-1.5, 1.5), levels=torch.linspace(-1.5, 1.5, 25).tolist(), cmap=SIDES)
    for level, dash in ((-1, "dashed"), (0, "solid"), (1, "dashed")):
        if value.min() < level < value.max():
            axes.contour(side, side, value, levels=[level], colors=INK, linewidths=1.0 + (level == 0), linestyles=dash)
    draw_classes(axes, machine.points, labels)
    ringed = machine.points[machine.support]
    axes.plot(ringed[:, 0], ringed[:, 1], "o", color="none", markeredgecolor=INK, markersize=9, markeredgewidth=0.8)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    axes.set_title(title, fontsize=10, color=INK)


def draw_classes(axes: Axes, points: Float[Tensor, "N 2"], labels: Float[Tensor, "N"]) -> None:
    r"""Draw the points, one class as circles and one as squares.

    Args:
        axes: the panel.
        points: (N, 2).
        labels: 1 or -1 each.
    """
    for label, look in LOOKS.items():
        chosen = points[labels == label]
        axes.plot(chosen[:, 0], chosen[:, 1], linestyle="none", markersize=5, markeredgecolor="white",
                  markeredgewidth=0.4, **look)


def decision_maps(machines: Mapping[str, tuple[Svm, Float[Tensor, "N"]]]) -> Figure:
    r"""Draw several machines side by side.

    Args:
        machines: for each title the machine and the labels of its points.
    Returns: the picture, a panel a machine; support vectors are ringed, dashed lines are the edges of the margin.
    """
    figure, panels = new_figure(len(machines), width=2.9 * len(machines) + 0.2, height=3.2)
    for axes, (title, (machine, labels)) in zip(panels, machines.items(), strict=True):
        draw_decision(axes, machine, labels, title)
    return figure


def lifted_picture(
    points: Float[Tensor, "N 2"], labels: Float[Tensor, "N"], lift: Callable[[Tensor], Tensor], height: float
) -> Figure:
    r"""Draw points of the plane, and the same points with a third coordinate and a level plane between the classes.

    Args:
        points: (N, 2).
        labels: 1 or -1 each.
        lift: gives the third coordinate, (N,).
        height: of the plane.
    Returns: the picture.
    """
    figure = Figure(figsize=(8.6, 3.8), dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    flat, space = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    draw_classes(flat, points, labels)
    flat.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    flat.set_title("no line parts them", fontsize=10, color=INK)
    flat.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        flat.spines[side].set_visible(False)
    top = lift(points)
    for label, look in LOOKS.items():
        here = labels == label
        space.scatter(points[here, 0], points[here, 1], top[here], s=18, depthshade=False, **look)
    corners = torch.tensor([-1.25, 1.25])
    x, y = torch.meshgrid(corners, corners, indexing="xy")
    space.plot_surface(x.numpy(), y.numpy(), torch.full_like(x, height).numpy(), color=COLOURS[2], alpha=0.35)
    space.view_init(elev=14, azim=-62)
    space.tick_params(colors=INK, labelsize=8)
    space.set_title("a plane does, one dimension up", fontsize=10, color=INK)
    return figure
