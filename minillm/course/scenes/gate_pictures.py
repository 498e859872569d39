r"""Drawings of lesson 06: activations side by side, an MLP and a GLU, and the stored table of FFNs."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, line_chart, new_figure
from minillm.course.scenes.gate_explorer import slope_of

MATRIX, BEND = "#BFE3D6", "#F3E3B3"


def bends_picture(bends: Mapping[str, Callable[[Tensor], Tensor]], reach: float = 3.0) -> Figure:
    r"""Draw activations and, beside them, their slopes.

    Args:
        bends: a function for each name.
        reach: x runs from -reach to reach.
    Returns: the picture.
    """
    figure, (left, right) = new_figure(columns=2, width=9.6, height=3.6)
    x = torch.linspace(-reach, reach, 301)
    line_chart(left, {name: (x, bend(x)) for name, bend in bends.items()}, "what comes out", "x")
    line_chart(right, {name: (x, slope_of(bend, x)) for name, bend in bends.items()}, "the slope there", "x")
    left.set_ylim(-0.6, reach)
    right.set_ylim(-0.3, 2.0)
    return figure


def ffn_forms() -> Figure:
    r"""Draw an FFN of two matrices and one of three, from top to bottom, with widths at which they are equally large.

    Returns: the picture.
    """
    figure, (left, right) = new_figure(columns=2, width=8.8, height=4.4)
    for axes, title in ((left, "MLP: two matrices"), (right, "GLU: three matrices, one of them a gate")):
        axes.set_axis_off()
        axes.set(xlim=(-2.2, 2.2), ylim=(5.6, -0.6))
        axes.set_title(title, fontsize=11, color=INK)
    _chain(left, 0, ("x", "up_proj", "activation", "down_proj", ""), (0, 1.3, 2.6, 3.9, 5.2))
    left.text(0.2, 3.28, "4 D", fontsize=10, color=INK)
    _chain(right, -1.1, ("gate_proj", "activation"), (1.3, 2.4))
    _drawn_box(right, 1.1, 1.3, "up_proj", MATRIX)
    _drawn_box(right, 0, 0, "x", "white", 0.6)
    for side in (-1.1, 1.1):
        _line(right, (0, 0.25), (side, 1.02))
    _drawn_box(right, 0, 3.3, "*", "white", 0.5)
    _line(right, (-1.1, 2.68), (-0.25, 3.2))
    _line(right, (1.1, 1.58), (0.25, 3.2))
    _chain(right, 0, ("down_proj", ""), (4.3, 5.3))
    _line(right, (0, 3.58), (0, 4.02))
    right.text(0.2, 3.82, "8/3 D", fontsize=10, color=INK)
    return figure


def losses_picture(rows: Sequence[Mapping[str, Any]], title: str, measure: str = "loss", unit: str = "") -> Figure:
    r"""Draw a row of dots for each variant, a dot a seed and a stroke at their mean.

    Args:
        rows: {"name": ..., "values": {measure: [one a seed]}}, as in a stored table.
        title: above the picture.
        measure: which.
        unit: under the picture.
    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=7.2, height=0.9 + 0.29 * len(rows))
    for place, row in enumerate(rows):
        values = row["values"][measure]
        axes.plot(values, [place] * len(values), "o", color=COLOURS[0], markersize=5, alpha=0.75)
        axes.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color=COLOURS[3], linewidth=2)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_xlabel(unit, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)
    return figure


def _chain(axes: Axes, x: float, names: Sequence[str], places: Sequence[float]) -> None:
    for name, y in zip(names, places, strict=True):
        if name:
            _drawn_box(axes, x, y, name, "white" if name == "x" else BEND if name == "activation" else MATRIX,
                       0.6 if name == "x" else 1.5)
    for start, end, name in zip(places, places[1:], names[1:], strict=False):
        _line(axes, (x, start + 0.27), (x, end - (0.27 if name else 0.1)))


def _drawn_box(axes: Axes, x: float, y: float, name: str, colour: str, width: float = 1.5) -> None:
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.25), width, 0.5, boxstyle="round,pad=0.02,rounding_size=0.1",
                                  facecolor=colour, edgecolor=INK, linewidth=1.0))
    axes.text(x, y, name, ha="center", va="center", fontsize=10, color=INK)


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.2})
