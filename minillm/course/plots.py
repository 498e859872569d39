r"""Pictures in one style: colours that the colour-blind can tell apart, white paper in any theme, always alt text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from IPython.core.getipython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito 2008, "Color Universal Design": eight colours, here without black and the pale yellow.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
INK, PALE = "#222222", "#D9D9D9"
MARKERS, DASHES = "osD^vP", ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
COLOUR_MAP = "cividis"  # its lightness rises steadily: it reads the same in grey
DOTS_PER_INCH = 100
SHORTEST_ALT = 10


def new_figure(columns: int = 1, width: float = 6.4, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    r"""Make an empty picture.

    Args:
        columns: panels side by side.
        width: inches.
        height: inches.
    Returns: the figure and its panels.
    """
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.set_facecolor("white")
        axes.tick_params(colors=INK, labelsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels


def heat_map(
    axes: Axes,
    values: Tensor,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
    low: float | None = None,
    high: float | None = None,
    numbers: str | None = None,
) -> None:
    r"""Draw a matrix as coloured squares: attention weights, a mask, a table of distances.

    Args:
        axes: the panel.
        values: (n, m), numbers or bool.
        rows: a label a row, such as the queries' tokens.
        columns: a label a column.
        title: above the panel.
        low: the value of the darkest colour; None takes the smallest.
        high: the value of the lightest colour; None takes the largest.
        numbers: a format such as ".2f" that writes each value into its square; None leaves them empty.
    """
    shown = values.detach().double()
    image = axes.imshow(shown.numpy(), cmap=COLOUR_MAP, vmin=low, vmax=high, aspect="equal", interpolation="nearest")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for axis, labels in ((axes.yaxis, rows), (axes.xaxis, columns)):
        size = shown.shape[0 if axis is axes.yaxis else 1]
        axis.set_ticks(range(size), labels if labels is not None else [str(i) for i in range(size)])
    axes.tick_params(length=0)
    if columns is not None and max(map(len, columns), default=0) > 2:
        axes.tick_params(axis="x", rotation=45)
    axes.set_title(title, fontsize=10, color=INK)
    if numbers is not None:
        _write_numbers(axes, shown, numbers, image.norm)


def bar_chart(axes: Axes, values: Mapping[str, float], title: str = "", unit: str = "", numbers: str = ".3g") -> None:
    r"""Draw a bar for each of a few named values, with the value above it.

    Args:
        axes: the panel.
        values: a number for each label.
        title: above the panel.
        unit: what the numbers measure, beside the axis.
        numbers: how the value above a bar is written.
    """
    drawn = axes.bar(list(values), [float(value) for value in values.values()], color=COLOURS[0], width=0.6)
    axes.bar_label(drawn, [format(float(value), numbers) for value in values.values()], fontsize=9, color=INK)
    axes.set_ylabel(unit, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)


def line_chart(
    axes: Axes,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str = "",
    x_name: str = "",
    y_name: str = "",
    level: tuple[float, str] | None = None,
) -> None:
    r"""Draw curves that differ in colour, dash and marker.

    Args:
        axes: the panel.
        series: for each name the x and the y values.
        title: above the panel.
        x_name: under the panel, with the unit.
        y_name: beside the panel, with the unit.
        level: a value and its name, drawn as a level line (a floor, a budget); None draws none.
    """
    for number, (name, (x, y)) in enumerate(series.items()):
        look = number % len(COLOURS)
        few = len(x) <= 30
        axes.plot(
            list(x), list(y), label=name, color=COLOURS[look], linestyle=DASHES[look], linewidth=1.8,
            marker=MARKERS[look] if few else None, markersize=4,
        )  # fmt: skip
    if level is not None:
        axes.axhline(level[0], color=INK, linewidth=1.0, linestyle=(0, (2, 2)), label=level[1])
    if len(series) + (level is not None) > 1:
        axes.legend(fontsize=9, frameon=False)
    axes.set_xlabel(x_name, fontsize=9, color=INK)
    axes.set_ylabel(y_name, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)


def attention_arrows(axes: Axes, weights: Tensor, queries: Sequence[str], keys: Sequence[str], title: str = "") -> None:
    r"""Draw who reads from whom: a line from each query above to each key below, as thick as its weight.

    Args:
        axes: the panel.
        weights: (Tq, Tk), 0 to 1.
        queries: a label a query.
        keys: a label a key.
        title: above the panel.
    """
    axes.set_axis_off()
    for i, query in enumerate(queries):
        axes.text(i, 1.06, query, ha="center", va="bottom", fontsize=10, color=INK)
        for j in range(len(keys)):
            weight = float(weights[i, j])
            if weight > 0.005:
                colour = COLOURS[i % len(COLOURS)]
                axes.plot([i, j], [1, 0], color=colour, linewidth=6 * weight, alpha=0.8, solid_capstyle="round")
    for j, key in enumerate(keys):
        axes.text(j, -0.06, key, ha="center", va="top", fontsize=10, color=INK)
    axes.set_xlim(-0.6, max(len(queries), len(keys)) - 0.4)
    axes.set_ylim(-0.3, 1.3)
    axes.set_title(title, fontsize=10, color=INK)


def vector_arrows(axes: Axes, vectors: Mapping[str, Sequence[float]], title: str = "") -> None:
    r"""Draw vectors of the plane as arrows from the origin.

    Args:
        axes: the panel.
        vectors: the two coordinates for each name.
        title: above the panel.
    """
    for number, (name, (x, y)) in enumerate(vectors.items()):
        look = {"color": COLOURS[number % len(COLOURS)], "width": 0.008}
        axes.quiver(0, 0, float(x), float(y), angles="xy", scale_units="xy", scale=1, **look)
        axes.annotate(name, (float(x), float(y)), textcoords="offset points", xytext=(5, 5), fontsize=10, color=INK)
    reach = 1.25 * max((abs(float(part)) for vector in vectors.values() for part in vector), default=1.0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_title(title, fontsize=10, color=INK)


def png_bytes(figure: Figure) -> bytes:
    r"""Draw a picture into a PNG.

    Args:
        figure: which.
    Returns: the file's content, the same for the same picture.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def picture_bundle(png: bytes, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    r"""A picture as a notebook stores it, with a text for those who do not see it.

    Args:
        png: the file's content.
        alt: what the picture shows, in a sentence.
    Returns: data and metadata of an output.
    Raises:
        ValueError: if the text is too short to tell anything.
    """
    if len(alt.strip()) < SHORTEST_ALT:
        raise ValueError(f"alt={alt!r}: say in a sentence what the picture shows")
    return {"image/png": png, "text/plain": f"[picture: {alt}]"}, {"image/png": {"alt": alt}}


def show(figure: Figure, alt: str) -> None:
    r"""Show a picture in the notebook; outside of one nothing happens.

    Args:
        figure: which.
        alt: what it shows, in a sentence.
    """
    data, metadata = picture_bundle(png_bytes(figure), alt)
    if get_ipython() is not None:
        display(data, metadata=metadata, raw=True)


def _write_numbers(axes: Axes, values: Tensor, layout: str, norm: Any) -> None:
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            dark = torch.isfinite(values[i, j]) and float(norm(value)) < 0.55
            axes.text(j, i, format(value, layout), ha="center", va="center", fontsize=8, color="white" if dark else INK)
