r"""Drawings of lesson 08: what one training step holds, and which numbers a format can hold."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, line_chart

GIB = 2**30
PARTS = ("weights", "gradients", "masters", "moments", "activations", "logits")
HATCHES = ("", "//", "..", "xx", "", "\\\\")


def memory_bars(
    axes: Axes, bars: Mapping[str, Mapping[str, float]], title: str = "", limits: Sequence[int] = (), unit: float = GIB
) -> None:
    r"""Draw what each of several settings holds as one bar of stacked parts.

    Args:
        axes: the panel.
        bars: for each setting bytes by part; parts are those of `memory.training_bytes`, others are left out.
        title: above the panel.
        limits: sizes of devices, in units, drawn as upright lines where they are within reach.
        unit: bytes in a unit of the axis.
    """
    names = list(bars)
    ends = [0.0] * len(names)
    for number, part in enumerate(PARTS):
        widths = [bars[name].get(part, 0) / unit for name in names]
        if any(widths):
            axes.barh(names, widths, left=ends, height=0.55, color=COLOURS[number], hatch=HATCHES[number],
                      edgecolor="white", linewidth=0.5, label=part)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for place, end in enumerate(ends):
        axes.text(end, place, f" {end:.3g}", va="center", ha="left", fontsize=9, color=INK)
    reach = max(ends)
    for size in limits:
        if size < 1.1 * reach:
            axes.axvline(size, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
            axes.text(size, -0.62, f"{size} GiB", ha="center", va="bottom", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * reach)
    axes.set_xlabel({GIB: "GiB", 2**20: "MiB"}.get(unit, "bytes"), fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)
    axes.legend(fontsize=9, frameon=False, ncol=len(PARTS), loc="upper center", bbox_to_anchor=(0.5, -0.24),
                columnspacing=1.0, handlelength=1.4)


def gradient_histogram(axes: Axes, gradients: Tensor, scale: float, title: str = "") -> None:
    r"""Draw how large the numbers of a gradient are, by powers of two, and where fp16 begins and ends.

    Args:
        axes: the panel.
        gradients: numbers; zeros are left out.
        scale: what they are multiplied by first.
        title: above the panel.
    """
    sizes = (gradients[gradients != 0].abs().double() * scale).log2()
    smallest, normal, largest = -24, -14, math.log2(65504)
    axes.hist(sizes.numpy(), bins=range(-50, 21), color=COLOURS[0], zorder=2)
    axes.axvspan(-50, smallest - 1, color=PALE, zorder=0)
    axes.axvspan(largest, 22, color=PALE, zorder=0)
    axes.axvspan(smallest - 1, normal, color=PALE, alpha=0.4, zorder=0)
    top = axes.get_ylim()[1]
    for x, text in (((-50 + smallest) / 2, "becomes 0"), ((smallest + normal) / 2, "fewer bits"), (19, "inf")):
        axes.text(x, 1.02 * top, text, ha="center", va="bottom", fontsize=8, color=INK)
    axes.set(xlim=(-50, 22), ylim=(0, 1.12 * top), yticks=[], xticks=[-48, -36, -24, -14, 0, 16])
    axes.set_xlabel("size, as a power of 2", fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)


def schedule_chart(axes: Axes, schedules: Mapping[str, Sequence[float]], title: str = "") -> None:
    r"""Draw learning rates over the steps of a run.

    Args:
        axes: the panel.
        schedules: for each name the rate at every step.
        title: above the panel.
    """
    line_chart(axes, {name: (range(len(rates)), rates) for name, rates in schedules.items()}, title, "step",
               "learning rate")
    axes.set_ylim(bottom=0)


def descent_paths(axes: Axes, paths: Mapping[str, Tensor], steep: float, title: str = "") -> None:
    r"""Draw how weights travel down a long valley, x²/2 + steep · y²/2.

    Args:
        axes: the panel.
        paths: for each name (n, 2) points, in order.
        steep: how many times steeper the valley's walls are than its floor.
        title: above the panel.
    """
    x, y = torch.meshgrid(torch.linspace(-0.6, 4.4, 80), torch.linspace(-1.4, 1.4, 80), indexing="xy")
    height = (x.square() + steep * y.square()) / 2
    axes.contour(x.numpy(), y.numpy(), height.numpy(), levels=[0.1, 0.5, 2, 6, 14, 30], colors=PALE, linewidths=0.8)
    for number, (name, points) in enumerate(paths.items()):
        axes.plot(points[:, 0], points[:, 1], color=COLOURS[number], marker="osD"[number], markersize=3, linewidth=1.2,
                  label=name, clip_on=True)
    axes.set(xlim=(-0.6, 4.4), ylim=(-1.4, 1.4), xticks=range(5), yticks=[-1, 0, 1])
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    axes.set_title(title, fontsize=10, color=INK)
