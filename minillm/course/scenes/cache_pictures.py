r"""Pictures of caches and long texts: what is computed and what is kept, slots, chunks, a tree of results."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minillm.course.plots import COLOURS, INK, PALE, new_figure

# How a box of a cache looks: its fill, its edge, its line.
LOOKS: Mapping[str, tuple[str, str, str]] = {
    "new": ("#F5C98A", COLOURS[1], "-"),
    "held": ("#CFE5F3", COLOURS[0], "-"),
    "shared": ("#CBE8DC", COLOURS[2], "-"),
    "free": ("white", "#999999", (0, (2, 2))),
    "gone": ("white", PALE, "-"),
}


def draw_boxes(
    axes: Axes, labels: Sequence[str], looks: Sequence[str], left: float = 0.0, y: float = 0.0, size: int = 9
) -> None:
    r"""Draw a row of boxes, each one wide.

    Args:
        axes: the panel.
        labels: what stands in each box.
        looks: a key of LOOKS for each.
        left: x of the row's left edge.
        y: of the row's middle.
        size: of the letters.
    """
    for place, (label, look) in enumerate(zip(labels, looks, strict=True)):
        fill, edge, line = LOOKS[look]
        axes.add_patch(Rectangle(
            (left + place + 0.04, y - 0.4), 0.92, 0.8, facecolor=fill, edgecolor=edge, linestyle=line, linewidth=1.0))
        colour = "#999999" if look == "gone" else INK
        axes.text(left + place + 0.5, y, label, ha="center", va="center", fontsize=size, color=colour)


def open_panel(axes: Axes, width: float, low: float, high: float, left: float = -0.3, title: str = "") -> None:
    r"""Make a panel a sheet of paper for boxes: no axes, room from low to high.

    Args:
        axes: the panel.
        width: boxes side by side.
        low: y of the lower edge.
        high: y of the upper edge.
        left: x of the left edge.
        title: above the panel.
    """
    axes.set_axis_off()
    axes.set(xlim=(left, width + 0.3), ylim=(low, high))
    axes.set_title(title, fontsize=10, color=INK)


def work_picture(words: Sequence[str], n_prompt: int) -> Figure:
    r"""Draw which tokens go through the model in each step of writing, without a cache and with one.

    Args:
        words: prompt and what is written, at least one more than the prompt.
        n_prompt: words of the prompt.
    Returns: the picture; a row a step, the prompt's pass first.
    """
    figure, panels = new_figure(2, width=9.6, height=0.45 * (len(words) - n_prompt) + 1.1)
    for axes, cached in zip(panels, (False, True), strict=True):
        steps = range(n_prompt, len(words))
        n_computed = 0
        for row, n_seen in enumerate(steps):
            first = n_seen - 1 if cached and row else 0
            n_computed += n_seen - first
            looks = ["held"] * first + ["new"] * (n_seen - first)
            draw_boxes(axes, words[:n_seen], looks, y=-row, size=8)
            axes.text(n_seen + 0.15, -row, f"→ {words[n_seen]}", ha="left", va="center", fontsize=8, color=INK)
        name = "with a cache" if cached else "without a cache"
        open_panel(axes, len(words) + 0.6, -len(steps) + 0.4, 0.6, title=f"{name}: {n_computed} tokens computed")
    return figure


def slot_steps(
    axes: Axes, held: Sequence[Sequence[int | None]], new: Sequence[int], title: str = "", first_step: int = 0
) -> None:
    r"""Draw which token each slot of a cache holds, a row a step.

    Args:
        axes: the panel.
        held: for each step the number of the token in each slot, None = free.
        new: for each step the first token that came in it.
        title: above the panel.
        first_step: the number of the first row.
    """
    for row, (slots, newest) in enumerate(zip(held, new, strict=True)):
        looks = ["free" if token is None else "new" if token >= newest else "held" for token in slots]
        draw_boxes(axes, ["" if token is None else str(token) for token in slots], looks, y=-row, size=8)
        axes.text(-0.2, -row, f"token {first_step + row}", ha="right", va="center", fontsize=8, color=INK)
    open_panel(axes, max(map(len, held)), -len(held) + 0.4, 0.6, left=-2.2, title=title)


def chunk_picture(n_tokens: int, cuts: Mapping[str, Sequence[tuple[int, int]]], facts: Sequence[range]) -> Figure:
    r"""Draw a text as a line, its facts on it, and below how each way of cutting cuts it.

    Args:
        n_tokens: of the text.
        cuts: for each way its chunks, start and end.
        facts: the tokens of each fact; one that lies whole in no chunk is drawn broken.
    Returns: the picture, a panel a way.
    """
    figure, panels = new_figure(len(cuts), width=9.4, height=1.25 * len(cuts) + 0.2)
    grid = figure.add_gridspec(len(cuts), 1)
    for number, (axes, (name, spans)) in enumerate(zip(panels, cuts.items(), strict=True)):
        axes.set_subplotspec(grid[number])
        for row, (start, end) in enumerate(spans):
            look = {"facecolor": LOOKS["held"][0], "edgecolor": LOOKS["held"][1], "linewidth": 1.0}
            axes.add_patch(Rectangle((start, -0.5 - 0.42 * (row % 2)), end - start, 0.34, **look))
        for fact in facts:
            whole = any(start <= fact.start and fact.stop <= end for start, end in spans)
            colour = COLOURS[2] if whole else COLOURS[3]
            look = {"facecolor": colour, "edgecolor": colour, "hatch": None if whole else "////", "alpha": 0.85}
            axes.add_patch(Rectangle((fact.start, 0.0), len(fact), 0.36, **look))
        n_whole = sum(any(s <= fact.start and fact.stop <= e for s, e in spans) for fact in facts)
        n_read = sum(end - start for start, end in spans)
        axes.set_axis_off()
        axes.set(xlim=(-0.01 * n_tokens, 1.01 * n_tokens), ylim=(-1.0, 0.45))
        axes.set_title(f"{name}: {n_whole} of {len(facts)} facts whole, {n_read} tokens read", fontsize=10, loc="left",
                       color=INK)
    return figure


def tree_picture(levels: Sequence[Sequence[Any]], fan_in: int, title: str = "") -> Figure:
    r"""Draw the results of a map-reduce, the parts below, the one for all above.

    Args:
        levels: results level by level, from `long_text.map_reduce`; each is written as a text.
        fan_in: results that are merged at once.
        title: above the picture.
    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=9.4, height=0.8 * len(levels) + 0.5)
    centres = [i + 0.5 for i in range(len(levels[0]))]
    for level, results in enumerate(levels):
        if level:
            groups = [centres[i : i + fan_in] for i in range(0, len(centres), fan_in)]
            above = [sum(group) / len(group) for group in groups]
            for centre, group in zip(above, groups, strict=True):
                for below in group:
                    axes.plot([below, centre], [level - 0.72, level - 0.28], color=INK, linewidth=0.8)
            centres = above
        for centre, result in zip(centres, results, strict=True):
            look = "new" if level == len(levels) - 1 else "shared" if level else "held"
            fill, edge, _ = LOOKS[look]
            box = {"boxstyle": "round,pad=0.3", "facecolor": fill, "edgecolor": edge}
            axes.text(centre, level, str(result), ha="center", va="center", fontsize=8, color=INK, bbox=box)
    open_panel(axes, len(levels[0]), -0.5, len(levels) - 0.5, title=title)
    return figure
