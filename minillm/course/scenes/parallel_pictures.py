r"""Pictures of several ranks: sums that travel round a ring, what each keeps, a split MLP, a pipeline's timetable."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minillm.course.plots import COLOURS, INK, PALE, new_figure
from minillm.training.pipeline_schedule import FORWARD, Slot

PART_COLOURS = {"weights": COLOURS[0], "gradients": COLOURS[1], "optimizer": COLOURS[2]}
LIGHT = 0.35  # how strong a rank's colour is behind text


def travelling_shares(n_ranks: int) -> list[list[tuple[int, list[int]]]]:
    r"""Where the shares of a sum are while a reduce-scatter runs.

    Args:
        n_ranks: in the ring.
    Returns: after each step (the first row: before any), for each rank, the share that it holds and whose summands
        are in it.
    """
    rows = [[((rank - 1) % n_ranks, [rank]) for rank in range(n_ranks)]]
    for _ in range(1, n_ranks):
        before = rows[-1]
        rows.append([(before[rank - 1][0], [*before[rank - 1][1], rank]) for rank in range(n_ranks)])
    return rows


def reduce_scatter_picture(n_ranks: int) -> Figure:
    r"""Draw the sums that travel, a row for each step, a column for each rank.

    Args:
        n_ranks: in the ring.
    Returns: the picture.
    """
    rows = travelling_shares(n_ranks)
    figure, (axes,) = new_figure(width=1.75 * n_ranks + 1.0, height=0.72 * len(rows) + 0.6)
    for step, row in enumerate(rows):
        for rank, (share, summands) in enumerate(row):
            _box(axes, rank, step, COLOURS[share % len(COLOURS)], f"share {share}:\n{' + '.join(map(str, summands))}")
    _ranks_and_rows(axes, n_ranks, ["before"] + [f"step {i}" for i in range(1, len(rows))])
    return figure


def kept_picture(kept: Mapping[str, Mapping[str, float]], unit: str, level: tuple[float, str] | None = None) -> Figure:
    r"""Draw what one rank keeps, a stacked bar for each way to train.

    Args:
        kept: for each way a number for `weights`, `gradients` and `optimizer`.
        unit: what the numbers measure.
        level: a number and its name, drawn as a level line, such as the memory of a device.
    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=1.35 * len(kept) + 2.6, height=3.4)
    for place, parts in enumerate(kept.values()):
        bottom = 0.0
        for name, colour in PART_COLOURS.items():
            axes.bar(place, parts[name], 0.62, bottom=bottom, color=colour, label=name if place == 0 else None)
            bottom += parts[name]
        axes.text(place, bottom, f"{bottom:.3g}", ha="center", va="bottom", fontsize=9, color=INK)
    if level is not None:
        axes.axhline(level[0], color=INK, linewidth=1.0, linestyle=(0, (2, 2)), label=level[1])
    axes.set_xticks(range(len(kept)), list(kept))
    axes.set_ylabel(unit, fontsize=9, color=INK)
    axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def split_mlp_picture(n_ranks: int, d_model: int = 4, d_ff: int = 8) -> Figure:
    r"""Draw which rows and columns of an MLP's two matrices each rank has, and which way the numbers go.

    Args:
        n_ranks: how many share the MLP; divides d_ff.
        d_model: features in and out.
        d_ff: hidden features.
    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=8.4, height=3.0)
    axes.set_axis_off()
    top = d_ff / 2
    places = {"x": 0.0, "up": 2.6, "hidden": 2.6 + d_model + 1.9, "down": 2.6 + d_model + 4.8}
    summands = places["down"] + d_ff + 1.9
    _column(axes, places["x"], d_model, "white", "x")
    for row in range(d_ff):
        colour = COLOURS[row * n_ranks // d_ff]
        axes.add_patch(_cell(places["up"], top - row - 1, d_model, 1, colour))
        axes.add_patch(_cell(places["hidden"], top - row - 1, 1, 1, colour))
        axes.add_patch(_cell(places["down"] + row, -d_model / 2, 1, d_model, colour))
    for rank in range(n_ranks):
        _column(axes, summands + 1.8 * rank, d_model, COLOURS[rank], "")
        if rank:
            axes.text(summands + 1.8 * rank - 0.4, 0, "+", ha="center", va="center", fontsize=13, color=INK)
    last = summands + 1.8 * n_ranks + 0.6
    _column(axes, last, d_model, "white", "")
    signs = ((places["x"] + 1.8, "→"), (places["up"] + d_model + 0.95, "act"), (places["hidden"] + 1.95, "→"),
             (places["down"] + d_ff + 0.95, "→"), (last - 0.55, "="))  # fmt: skip
    for x, sign in signs:
        axes.text(x, 0, sign, ha="center", va="center", fontsize=12, color=INK)
    under = ((places["up"] + d_model / 2, "up: split by rows"), (places["down"] + d_ff / 2, "down: split by columns"),
             (summands + 0.9 * n_ranks - 0.4, "all-reduce"))  # fmt: skip
    for x, label in under:
        axes.text(x, -top - 0.35, label, ha="center", va="top", fontsize=9, color=INK)
    axes.set(xlim=(-0.3, last + 1.3), ylim=(-top - 1.3, top + 0.3), aspect="equal")
    return figure


def timetable_picture(panels: Mapping[str, Sequence[Sequence[Slot | None]]]) -> Figure:
    r"""Draw timetables of pipelines under each other: forward passes pale, backward passes full, waiting hatched.

    Args:
        panels: for each title the rows of the stages.
    Returns: the picture.
    """
    n_ticks = max(len(rows[0]) for rows in panels.values())
    heights = [len(rows) for rows in panels.values()]
    figure = new_figure(width=min(9.6, 0.42 * n_ticks + 1.6), height=0.36 * sum(heights) + 0.75 * len(panels))[0]
    figure.clear()
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
        for stage, row in enumerate(rows):
            for tick, slot in enumerate(row):
                _draw_slot(axes, tick, stage, slot)
        axes.set(xlim=(0, n_ticks), ylim=(len(rows), 0))
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_yticks([i + 0.5 for i in range(len(rows))], [f"stage {i}" for i in range(len(rows))])
        axes.set_xticks([])
        axes.tick_params(length=0, labelsize=9, colors=INK)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def _draw_slot(axes: Axes, tick: int, stage: int, slot: Slot | None) -> None:
    if slot is None:
        axes.add_patch(Rectangle((tick, stage), 1, 1, facecolor="white", edgecolor=PALE, hatch="////", linewidth=0.8))
        return
    forward = slot.kind == FORWARD
    colour = COLOURS[5] if forward else COLOURS[1]
    axes.add_patch(Rectangle((tick, stage), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.2))
    label = f"{slot.kind}{slot.micro_batch}"
    axes.text(tick + 0.5, stage + 0.5, label, ha="center", va="center", fontsize=8, color=INK)


def _box(axes: Axes, column: int, row: int, colour: str, text: str) -> None:
    axes.add_patch(Rectangle((column + 0.06, row + 0.1), 0.88, 0.8, facecolor=colour, alpha=LIGHT))
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9, color=INK)


def _cell(x: float, y: float, width: float, height: float, colour: str) -> Rectangle:
    return Rectangle((x, y), width, height, facecolor=colour, alpha=0.6, edgecolor="white", linewidth=1.2)


def _column(axes: Axes, x: float, size: int, colour: str, label: str) -> None:
    edge = INK if colour == "white" else "white"
    axes.add_patch(
        Rectangle((x, -size / 2), 1, size, facecolor=colour, edgecolor=edge, linewidth=1.0,
                  alpha=None if colour == "white" else 0.6)
    )  # fmt: skip
    axes.text(x + 0.5, -size / 2 - 0.3, label, ha="center", va="top", fontsize=10, color=INK)


def _ranks_and_rows(axes: Axes, n_ranks: int, rows: Sequence[str]) -> None:
    axes.set(xlim=(0, n_ranks), ylim=(len(rows), 0))
    axes.set_xticks([i + 0.5 for i in range(n_ranks)], [f"rank {i}" for i in range(n_ranks)])
    axes.xaxis.tick_top()
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
