r"""Pictures of norms: where they stand in a branch, and what they do to one token."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from torch import Tensor

from minillm.course.plots import COLOURS, DASHES, INK, PALE, new_figure

BRANCH, STREAM = 0.0, 1.35  # x of the two columns
NORM_COLOUR, PART_COLOUR, SUM_COLOUR = "#F3E3B3", "#BBD9EE", "white"
# Boxes in the branch, boxes on the stream, from top to bottom; without a plus there is no second column.
DESIGNS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no residual": (("part", "norm"), ()),
    "pre-norm": (("norm", "part"), ("+",)),
    "post-norm": (("part",), ("+", "norm")),
    "sandwich": (("norm", "part", "norm"), ("+",)),
    "DeepNorm": (("part",), ("× α", "+", "norm")),
}
COLOUR_ORDER = ("pre-norm", "post-norm", "sandwich", "DeepNorm", "no residual", "no norm")
FIRST, PLUS, LAST = 1.3, 4.6, 6.6  # y of the first box, of the sum, of the end


def branch_designs() -> Figure:
    r"""Draw one branch in each design, side by side; the heavy line is the residual stream.

    Returns: the picture.
    """
    figure, panels = new_figure(columns=len(DESIGNS), width=9.8, height=3.9)
    for axes, (title, (branch, stream)) in zip(panels, DESIGNS.items(), strict=True):
        axes.set_axis_off()
        axes.set(xlim=(-0.75, 2.05), ylim=(LAST + 0.4, -0.5))
        axes.set_title(title, fontsize=11, color=INK)
        _draw_design(axes, branch, stream)
    return figure


def token_panels(panels: Mapping[str, Sequence[float] | Tensor]) -> Figure:
    r"""Draw versions of one token as bars, a bar for each feature, all panels on one scale.

    Args:
        panels: the features for each title.
    Returns: the picture.
    """
    figure, drawn = new_figure(columns=len(panels), width=9.0, height=2.7)
    values = {title: [float(number) for number in features] for title, features in panels.items()}
    low = min(0.0, *(min(numbers) for numbers in values.values()))
    high = max(0.0, *(max(numbers) for numbers in values.values()))
    for axes, (title, numbers) in zip(drawn, values.items(), strict=True):
        axes.bar(range(len(numbers)), numbers, color=COLOURS[0], width=0.7)
        axes.axhline(0.0, color=INK, linewidth=0.8)
        mean = sum(numbers) / len(numbers)
        axes.axhline(mean, color=COLOURS[3], linewidth=1.4, linestyle="--")
        axes.text(-0.4, mean, "mean", ha="left", va="bottom", fontsize=8, color=COLOURS[3])
        axes.set_ylim(1.12 * low, 1.12 * high)
        axes.set_xticks(range(len(numbers)))
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("feature", fontsize=9, color=INK)
        axes.set_title(title, fontsize=10, color=INK)
    return figure


def depth_chart(
    axes: Axes, curves: Mapping[str, Sequence[float]], title: str, y_name: str, first: int = 0, log: bool = True
) -> None:
    r"""Draw what happens from layer to layer, a curve for each design, in the design's own colour.

    Args:
        axes: the panel.
        curves: for each design a number for each layer.
        title: above the panel.
        y_name: beside the panel.
        first: the number of the first point.
        log: whether the y axis is logarithmic.
    """
    for number, (name, values) in enumerate(curves.items()):
        look = COLOUR_ORDER.index(name) if name in COLOUR_ORDER else number % len(COLOURS)
        places = range(first, first + len(values))
        axes.plot(places, list(values), label=name, color=COLOURS[look], linestyle=DASHES[look], linewidth=2.0)
    if log:
        axes.set_yscale("log")
    numbers = [number for values in curves.values() for number in values if math.isfinite(number)]
    if log and numbers and max(numbers) < 1000 * min(numbers):  # plain numbers on the axis, where they have room
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_xlabel("layer", fontsize=9, color=INK)
    axes.set_ylabel(y_name, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)


def _draw_design(axes: Axes, branch: Sequence[str], stream: Sequence[str]) -> None:
    x = STREAM if stream else BRANCH
    axes.text(x, -0.25, "x", ha="center", va="center", fontsize=12, color=INK)
    if not stream:
        _line(axes, (x, 0.0), (x, LAST), heavy=False, head=True)
        for number, label in enumerate(branch):
            _draw_box(axes, x, FIRST + 1.7 * number, label)
        return
    _line(axes, (STREAM, 0.0), (STREAM, LAST), heavy=True, head=True)
    _line(axes, (STREAM, 0.5), (BRANCH, 0.5))
    _line(axes, (BRANCH, 0.5), (BRANCH, PLUS))
    _line(axes, (BRANCH, PLUS), (STREAM - 0.25, PLUS), head=True)
    gap = (PLUS - 0.5) / (len(branch) + 1)
    for number, label in enumerate(branch, 1):
        _draw_box(axes, BRANCH, 0.5 + gap * number, label)
    for number, label in enumerate(stream):
        _draw_box(axes, STREAM, PLUS + 1.15 * (number - stream.index("+")) * (1.0 if label == "norm" else 1.6), label)


def _draw_box(axes: Axes, x: float, y: float, label: str) -> None:
    colour = {"norm": NORM_COLOUR, "part": PART_COLOUR}.get(label, SUM_COLOUR)
    look = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": INK}
    axes.text(x, y, label, ha="center", va="center", fontsize=10, color=INK, bbox=look, zorder=3)


def _line(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], heavy: bool = False, head: bool = False
) -> None:
    look = {"arrowstyle": "-|>" if head else "-", "color": INK, "linewidth": 3.0 if heavy else 1.3}
    axes.annotate("", xy=end, xytext=start, arrowprops={**look, "shrinkA": 0, "shrinkB": 0}, zorder=1)
