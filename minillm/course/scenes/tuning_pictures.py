r"""Pictures of tuning: a change in two thin matrices, where each method sits, who sees whom, what each costs."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from minillm.course.plots import COLOURS, INK, MARKERS, PALE, line_chart, new_figure

FROZEN, TRAINED = ("#DCEAF4", COLOURS[0]), ("#F8DDB0", COLOURS[1])  # fill and edge
GREY = ("#EEEEEE", "#999999")


def factor_picture(
    weight: Float[Tensor, "d_out d_in"],
    lora_b: Float[Tensor, "d_out rank"],
    lora_a: Float[Tensor, "rank d_in"],
) -> Figure:
    r"""Draw weight + B A = result with every number written out: what is frozen is blue, what is trained is orange.

    Args:
        weight: (d_out, d_in), small enough to be written out.
        lora_b: (d_out, rank).
        lora_a: (rank, d_in).
    Returns: the picture.
    """
    n_rows, n_columns = weight.shape
    figure, (axes,) = new_figure(width=8.6, height=0.36 * n_rows + 0.75)
    result, left = weight + lora_b @ lora_a, 0.0
    parts = (("W, frozen", weight, FROZEN, "+"), ("B", lora_b, TRAINED, ""), ("A", lora_a, TRAINED, "="),
             ("W + B A", result, GREY, ""))  # fmt: skip
    for name, matrix, look, sign in parts:
        _written_matrix(axes, matrix, left, n_rows, look)
        axes.text(left + matrix.shape[1] / 2, 0.75, name, ha="center", va="bottom", fontsize=10, color=INK)
        left += matrix.shape[1] + (1.3 if sign else 0.45)
        axes.text(left - 0.65, -(n_rows - 1) / 2, sign, ha="center", va="center", fontsize=14, color=INK)
    axes.set_axis_off()
    axes.set(xlim=(-0.2, left), ylim=(-n_rows + 0.3, 1.5))
    return figure


def _written_matrix(axes: Axes, matrix: Tensor, left: float, n_rows: int, look: tuple[str, str]) -> None:
    r"""A matrix of boxes with numbers; fewer rows than n_rows stand in the middle."""
    top = -(n_rows - len(matrix)) / 2
    for i, row in enumerate(matrix.tolist()):
        for j, number in enumerate(row):
            axes.add_patch(Rectangle((left + j, top - i - 0.45), 0.94, 0.9, facecolor=look[0], edgecolor=look[1]))
            axes.text(left + j + 0.47, top - i, f"{number:g}", ha="center", va="center", fontsize=8, color=INK)


def places_picture() -> Figure:
    r"""Draw one block of a GPT, and in it the places at which each method puts its numbers.

    Returns: the picture; frozen parts are blue, trained ones orange.
    """
    figure, (axes,) = new_figure(width=8.8, height=4.5)
    for x, y, width, text in (
        (0.0, 0.0, 1.5, "token\nvectors"), (2.6, 2.0, 1.2, "q, k, v"), (4.4, 2.0, 1.9, "attention"),
        (6.9, 2.0, 1.0, "o"), (11.2, 2.0, 1.5, "FFN up"), (13.2, 2.0, 1.6, "FFN down"),
    ):  # fmt: skip
        _named_box(axes, x, y, width, 1.0, text, FROZEN)
    for x, y, width, text in (
        (0.0, 1.5, 1.5, "prompt,\nP-tuning"), (2.6, 3.6, 1.2, "LoRA"), (4.4, 3.6, 1.9, "prefix:\nown k, v"),
        (6.9, 3.6, 1.0, "LoRA"), (8.3, 2.0, 1.3, "adapter\n(Houlsby)"), (11.2, 3.6, 1.5, "LoRA"),
        (13.2, 3.6, 1.6, "LoRA"), (15.2, 2.0, 1.3, "adapter\n(Houlsby)"), (11.8, -1.9, 2.4, "parallel adapter"),
    ):  # fmt: skip
        _named_box(axes, x, y, width, 1.0, text, TRAINED)
    stream = {"arrowstyle": "-|>", "mutation_scale": 12, "color": INK, "linewidth": 1.2}
    axes.add_patch(FancyArrowPatch((1.5, 0.5), (17.6, 0.5), **stream))
    axes.text(17.75, 0.7, "next\nblock", ha="center", va="bottom", fontsize=9, color=INK)
    axes.text(6.0, 0.3, "the residual stream", ha="center", va="top", fontsize=9, color=INK)
    for start, corner, end in ((2.1, 2.6, 10.1), (10.7, 11.2, 17.0)):
        _bent_line(axes, [(start, 0.5), (start, 2.5), (corner, 2.5)])
        _bent_line(axes, [(end - 0.5, 2.5), (end, 2.5), (end, 0.62)], arrow=True)
    _bent_line(axes, [(3.8, 2.5), (4.4, 2.5)])
    _bent_line(axes, [(6.3, 2.5), (6.9, 2.5)])
    _bent_line(axes, [(7.9, 2.5), (8.3, 2.5)])
    _bent_line(axes, [(12.7, 2.5), (13.2, 2.5)])
    _bent_line(axes, [(14.8, 2.5), (15.2, 2.5)])
    _bent_line(axes, [(10.7, 0.5), (10.7, -1.4), (11.8, -1.4)])
    _bent_line(axes, [(14.2, -1.4), (17.0, -1.4), (17.0, 0.38)], arrow=True)
    for x in (3.2, 7.4, 11.95, 14.0):
        axes.plot([x, x], [3.0, 3.6], color=TRAINED[1], linewidth=1.2, linestyle=(0, (2, 2)))
    axes.plot([5.35, 5.35], [3.0, 3.6], color=TRAINED[1], linewidth=1.2, linestyle=(0, (2, 2)))
    axes.plot([0.75, 0.75], [1.0, 1.5], color=TRAINED[1], linewidth=1.2, linestyle=(0, (2, 2)))
    axes.set_axis_off()
    axes.set(xlim=(-0.2, 18.4), ylim=(-2.1, 4.8))
    return figure


def _named_box(axes: Axes, x: float, y: float, width: float, height: float, text: str, look: tuple[str, str]) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=look[0], edgecolor=look[1], linewidth=1.2, zorder=2))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8, color=INK, zorder=3)


def _bent_line(axes: Axes, points: Sequence[tuple[float, float]], arrow: bool = False) -> None:
    *line, end = points
    xs, ys = zip(*(points if not arrow else line), strict=True)
    axes.plot(xs, ys, color=INK, linewidth=1.0, zorder=1)
    if arrow:
        look = {"arrowstyle": "-|>", "mutation_scale": 9, "color": INK, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
        axes.add_patch(FancyArrowPatch(line[-1], end, **look))


def seen_picture(n_virtual: int, words: Sequence[str]) -> Figure:
    r"""Draw who sees whom with a soft prompt and with a prefix: queries downwards, keys to the right.

    Args:
        n_virtual: vectors that are put in front.
        words: the real tokens.
    Returns: the picture, two panels; orange where a virtual key is seen, blue where a real one is.
    """
    figure, panels = new_figure(2, width=8.6, height=0.3 * (n_virtual + len(words)) + 1.0)
    names = [f"v{i + 1}" for i in range(n_virtual)] + list(words)
    for axes, first, title in zip(panels, (0, n_virtual), ("prompt: more tokens", "prefix: more keys and values"),
                                  strict=True):
        for i in range(first, len(names)):
            for j in range(len(names)):
                fill, edge = (TRAINED if j < n_virtual else FROZEN) if j <= i else ("white", PALE)
                axes.add_patch(Rectangle((j, -i - 1), 0.92, 0.92, facecolor=fill, edgecolor=edge, linewidth=0.8))
            axes.text(-0.2, -i - 0.5, names[i], ha="right", va="center", fontsize=8, color=INK)
        for j, name in enumerate(names):
            axes.text(j + 0.46, 0.2 - first, name, ha="center", va="bottom", fontsize=8, color=INK,
                      rotation=90 if len(name) > 2 else 0)
        axes.set_axis_off()
        axes.set(xlim=(-2.0, len(names) + 0.2), ylim=(-len(names) - 0.2, 2.2), aspect="equal")
        axes.set_title(title, fontsize=10, color=INK)
    return figure


def shares_picture(
    names: Sequence[str], alone: Sequence[float], beside: Sequence[float], n_prefix: int
) -> Figure:
    r"""Draw how a query divides its attention without a prefix and with one.

    Args:
        names: the real tokens.
        alone: the weight of each without a prefix; sum 1.
        beside: the weights with one, those of the prefix first.
        n_prefix: how many are of the prefix.
    Returns: the picture, two panels with the same scale.
    """
    figure, panels = new_figure(2, width=8.0, height=2.6)
    virtual = [f"prefix {i + 1}" for i in range(n_prefix)]
    for axes, weights, title in ((panels[0], [0.0] * n_prefix + list(alone), "without a prefix"),
                                 (panels[1], list(beside), "with a prefix")):
        colours = [TRAINED[1]] * n_prefix + [FROZEN[1]] * len(names)
        bars = axes.bar([*virtual, *names], weights, color=colours, width=0.6)
        axes.bar_label(bars, [f"{weight:.2f}" if weight else "" for weight in weights], fontsize=9, color=INK)
        axes.set_ylim(0, 1.15 * max(*alone, *beside))
        axes.set_title(title, fontsize=10, color=INK)
        axes.tick_params(axis="x", labelsize=8)
    panels[0].set_ylabel("attention weight", fontsize=9, color=INK)
    return figure


def spectrum_picture(
    spectra: Mapping[str, Sequence[float]],
    kept: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    level: tuple[float, str],
) -> Figure:
    r"""Draw how fast singular values fall, and what is left of a model when only the first of them are kept.

    Args:
        spectra: for each matrix its singular values, the largest first; they are drawn relative to it.
        kept: for each way of cutting the ranks and the model's cost at each.
        level: a cost and its name, drawn as a level line.
    Returns: the picture, two panels.
    """
    figure, panels = new_figure(2, width=8.8, height=3.4)
    falls = {name: (range(1, len(values) + 1), [value / values[0] for value in values])
             for name, values in spectra.items()}
    line_chart(panels[0], falls, "Singular values", "number", "relative to the largest")
    panels[0].set_ylim(0, 1.05)
    line_chart(panels[1], kept, "Kept in every matrix", "rank", "nats a character of stories", level)
    ranks = list(next(iter(kept.values()))[0])
    panels[1].set(xscale="log", xticks=ranks, xticklabels=[str(rank) for rank in ranks])
    panels[1].minorticks_off()
    return figure


def price_picture(
    rows: Mapping[str, tuple[float, Mapping[str, float]]], y_name: str, level: tuple[float, str] | None = None
) -> Figure:
    r"""Draw methods as points: how many numbers they train, and what comes of it.

    Args:
        rows: for each method its trained numbers, and its measures by name.
        y_name: the measures' unit.
        level: a value of the first measure and its name, drawn as a level line; None draws none.
    Returns: the picture, a panel a measure; the numbers' axis is logarithmic.
    """
    measures = list(next(iter(rows.values()))[1])
    figure, panels = new_figure(len(measures), width=9.0, height=3.4)
    for axes, measure in zip(panels, measures, strict=True):
        for number, (name, (count, values)) in enumerate(rows.items()):
            look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // 2 % len(MARKERS)]}
            label = name if axes is panels[-1] else None
            axes.plot([count], [values[measure]], linestyle="none", markersize=6, label=label, **look)
        axes.set_xscale("log")
        axes.set_xlabel("trained numbers", fontsize=9, color=INK)
        axes.set_title(measure, fontsize=10, color=INK)
    panels[0].set_ylabel(y_name, fontsize=9, color=INK)
    if level is not None:
        panels[0].axhline(level[0], color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
        panels[0].annotate(level[1], (1.0, level[0]), xycoords=("axes fraction", "data"), textcoords="offset points",
                           xytext=(-4, 3), ha="right", va="bottom", fontsize=8, color=INK)
        panels[0].set_ylim(top=1.08 * panels[0].get_ylim()[1])
    figure.legend(fontsize=8, frameon=False, loc="outside right center")
    return figure
