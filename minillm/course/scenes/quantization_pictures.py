r"""Pictures of numbers in few bits: the bits themselves, rounding, who shares a scale, outliers, a roofline."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, new_figure

# What a bit is for: its fill and its edge.
BIT_LOOKS: Mapping[str, tuple[str, str]] = {
    "sign": ("#F3C9B5", COLOURS[3]),
    "exponent": ("#F5DDA8", COLOURS[1]),
    "mantissa": ("#CFE5F3", COLOURS[0]),
    "integer": ("#CBE8DC", COLOURS[2]),
}
SHARERS = ("#9CC9E4", "#F2CD8C", "#99D4BF", "#EBB08A", "#E6C2D6", "#CFE9F8")  # pale, so that numbers can be read


def bit_boxes(rows: Mapping[str, Sequence[tuple[str, str]]], notes: Mapping[str, str]) -> Figure:
    r"""Draw numbers as they lie in memory, a box a bit.

    Args:
        rows: for each format its fields from left to right: what the bits are for (a key of BIT_LOOKS), and the bits.
        notes: for each format what stands behind its bits.
    Returns: the picture, a row a format.
    """
    widest = max(sum(len(bits) for _, bits in fields) for fields in rows.values())
    figure, (axes,) = new_figure(width=9.6, height=0.42 * len(rows) + 0.75)
    for row, (name, fields) in enumerate(rows.items()):
        left = 0.0
        for kind, bits in fields:
            fill, edge = BIT_LOOKS[kind]
            for bit in bits:
                axes.add_patch(Rectangle((left, -row - 0.4), 0.94, 0.8, facecolor=fill, edgecolor=edge, linewidth=0.8))
                axes.text(left + 0.47, -row, bit, ha="center", va="center", fontsize=8, color=INK)
                left += 1
        axes.text(-0.5, -row, name, ha="right", va="center", fontsize=9, color=INK)
        axes.text(left + 0.5, -row, notes[name], ha="left", va="center", fontsize=9, color=INK)
    used = [kind for kind in BIT_LOOKS if any(kind == other for fields in rows.values() for other, _ in fields)]
    for place, kind in enumerate(used):
        axes.add_patch(Rectangle((6 * place, 0.75), 0.94, 0.6, facecolor=BIT_LOOKS[kind][0],
                                 edgecolor=BIT_LOOKS[kind][1], linewidth=0.8))
        axes.text(6 * place + 1.3, 1.05, kind, ha="left", va="center", fontsize=9, color=INK)
    axes.set_axis_off()
    axes.set(xlim=(-5, widest + 9), ylim=(-len(rows) + 0.4, 1.5))
    return figure


def rounding_picture(values: Sequence[float], grids: Mapping[str, Sequence[float]]) -> Figure:
    r"""Draw numbers above the grids that they are rounded to, each joined to the grid point that it becomes.

    Args:
        values: the numbers.
        grids: for each way of rounding, all numbers that it can store.
    Returns: the picture, a line a grid; its label has the root mean square of the error.
    """
    figure, (axes,) = new_figure(width=9.6, height=0.95 * len(grids) + 0.5)
    exact = torch.tensor(list(values), dtype=torch.float64)
    for row, (name, grid) in enumerate(grids.items()):
        points = torch.tensor(list(grid), dtype=torch.float64)
        nearest = points[(exact[:, None] - points).abs().argmin(dim=1)]
        error = float((nearest - exact).square().mean().sqrt())
        axes.axhline(-row, color=PALE, linewidth=0.8, zorder=0)
        axes.plot(points, [-row] * len(points), "|", color=INK, markersize=11)
        for value, reached in zip(exact.tolist(), nearest.tolist(), strict=True):
            axes.plot([value, reached], [-row + 0.42, -row], color=COLOURS[1], linewidth=1.2)
        axes.plot(exact, [-row + 0.42] * len(exact), "o", color=COLOURS[0], markersize=5)
        axes.text(-0.01, -row, f"{name}\nerror {error:.3f}", ha="right", va="center", fontsize=9, color=INK,
                  transform=axes.get_yaxis_transform())
    axes.set(ylim=(-len(grids) + 0.55, 0.65), yticks=[])
    axes.spines["left"].set_visible(False)
    return figure


def sharing_picture(weight: Float[Tensor, "R C"], group_size: int) -> Figure:
    r"""Draw a small matrix three times, coloured by who shares a scale: all, a row, a group of a row.

    Args:
        weight: (R, C), float, small enough to be written out.
        group_size: columns of a group.
    Returns: the picture, three panels with the scales (largest absolute number / 127) beside them.
    """
    n_rows, n_columns = weight.shape
    figure, panels = new_figure(3, width=11.0, height=0.36 * n_rows + 0.8)
    whole = n_rows * n_columns
    ways = {"per tensor": whole, "per row": n_columns, f"in groups of {group_size}": group_size}
    for axes, (name, size) in zip(panels, ways.items(), strict=True):
        for i in range(n_rows):
            for j in range(n_columns):
                owner = (i * n_columns + j) // size
                look = {"facecolor": SHARERS[owner % len(SHARERS)], "edgecolor": "white", "linewidth": 1.0}
                axes.add_patch(Rectangle((j, -i - 0.5), 1, 1, **look))
                number = f"{weight[i, j].item():.1f}"
                axes.text(j + 0.5, -i, number, ha="center", va="center", fontsize=8, color=INK)
        n_scales = whole // size
        axes.set_axis_off()
        axes.set(xlim=(-0.1, n_columns + 0.1), ylim=(-n_rows + 0.4, 0.6))
        axes.set_title(f"{name}: {n_scales} scale{'s' if n_scales > 1 else ''}", fontsize=10, color=INK)
    return figure


def outlier_picture(x: Float[Tensor, "T C"], columns: Sequence[int], threshold: float) -> Figure:
    r"""Draw activations as stems, one a feature: the largest of each over all tokens, and those beyond a threshold.

    Args:
        x: activations, (T, C), float.
        columns: features that are named in the picture.
        threshold: drawn as a level line.
    Returns: the picture.
    """
    largest = x.abs().amax(dim=0)
    figure, (axes,) = new_figure(width=9.6, height=2.8)
    beyond = largest > threshold
    for chosen, colour, width in ((~beyond, COLOURS[0], 0.7), (beyond, COLOURS[3], 1.8)):
        places = chosen.nonzero().flatten()
        axes.vlines(places.tolist(), 0, largest[places].tolist(), color=colour, linewidth=width)
    axes.axhline(threshold, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    for column in columns:
        axes.annotate(f"feature {column}", (column, float(largest[column])), textcoords="offset points",
                      xytext=(5, -3), fontsize=9, color=INK)
    axes.set_xlabel("feature", fontsize=9, color=INK)
    axes.set_ylabel("largest of all tokens", fontsize=9, color=INK)
    return figure


def roofline_picture(
    roofs: Mapping[str, tuple[float, float]], points: Mapping[str, tuple[float, float]], title: str = ""
) -> Figure:
    r"""Draw what a machine can reach against how many operations it does with each byte, both logarithmic.

    Args:
        roofs: for each machine its largest rate of operations (FLOP/s) and of memory (bytes/s).
        points: for each measured piece of work its FLOP per byte and its FLOP/s.
        title: above the picture.
    Returns: the picture; left of a roof's bend memory decides, right of it arithmetic.
    """
    figure, (axes,) = new_figure(width=7.6, height=3.8)
    reach = torch.logspace(-1.5, 4, 200, dtype=torch.float64)
    for number, (name, (peak, bandwidth)) in enumerate(roofs.items()):
        axes.plot(reach, (reach * bandwidth).clamp(max=peak) / 1e9, color=COLOURS[number % len(COLOURS)], label=name,
                  linewidth=1.8, linestyle=("-", "--", "-.", ":")[number % 4])
        axes.plot([peak / bandwidth], [peak / 1e9], "|", color=COLOURS[number % len(COLOURS)], markersize=14)
    for number, (name, (intensity, rate)) in enumerate(points.items()):
        axes.plot([intensity], [rate / 1e9], "osD^vP"[number % 6], color=INK, markersize=6, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("FLOP per byte", fontsize=9, color=INK)
    axes.set_ylabel("GFLOP/s", fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
