r"""Pictures of attention in tiles: what exists of the table at a moment, and whose keys a device of a ring holds."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minillm.course.plots import COLOURS, INK, PALE, new_figure

LOOKS = {
    "forgotten": {"facecolor": PALE, "edgecolor": "white"},
    "alive": {"facecolor": COLOURS[1], "edgecolor": INK},
    "to come": {"facecolor": "white", "edgecolor": "#8A8A8A"},
    "never made": {"facecolor": "white", "edgecolor": PALE, "hatch": "///"},
}


def tile_states(n_tiles: int, done: int, causal: bool) -> list[list[str]]:
    r"""What has become of each tile after some of them, row by row of queries.

    Args:
        n_tiles: along each side.
        done: how many tiles have been finished; the next one is alive.
        causal: whether tiles above the diagonal are left out.
    Returns: for each row of tiles the states, keys of LOOKS.
    """
    states, turn = [], 0
    for i in range(n_tiles):
        row = []
        for j in range(n_tiles):
            if causal and j > i:
                row.append("never made")
                continue
            row.append("forgotten" if turn < done else "alive" if turn == done else "to come")
            turn += 1
        states.append(row)
    return states


def tiles_picture(panels: Mapping[str, Sequence[Sequence[str]]]) -> Figure:
    r"""Draw tables of tiles side by side.

    Args:
        panels: for each title the states of the tiles.
    Returns: the picture.
    """
    figure, all_axes = new_figure(len(panels), width=3.0 * len(panels), height=3.3)
    for axes, (title, states) in zip(all_axes, panels.items(), strict=True):
        _draw_tiles(axes, states)
        axes.set_title(title, fontsize=10, color=INK)
    all_axes[0].set_ylabel("queries", fontsize=9, color=INK)
    marks = [Rectangle((0, 0), 1, 1, label=name, **look) for name, look in LOOKS.items()]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(LOOKS), fontsize=9, frameon=False)
    return figure


def _draw_tiles(axes: Axes, states: Sequence[Sequence[str]]) -> None:
    for i, row in enumerate(states):
        for j, state in enumerate(row):
            axes.add_patch(Rectangle((j, i), 1, 1, linewidth=1.0, **LOOKS[state]))
    axes.set(xlim=(-0.05, len(states[0]) + 0.05), ylim=(len(states) + 0.05, -0.05), aspect="equal")
    axes.set_xlabel("keys", fontsize=9, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def ring_picture(holders: Sequence[Sequence[int]]) -> Figure:
    r"""Draw whose keys and values each device of a ring holds at each step.

    Args:
        holders: for each step, for each device, the device that the block belongs to.
    Returns: the picture.
    """
    n_steps, n_devices = len(holders), len(holders[0])
    figure, (axes,) = new_figure(width=1.5 * n_devices + 0.9, height=0.75 * n_steps + 0.7)
    for step, row in enumerate(holders):
        for device, owner in enumerate(row):
            colour = COLOURS[owner % len(COLOURS)]
            axes.add_patch(Rectangle((device + 0.08, step + 0.12), 0.84, 0.76, facecolor=colour, alpha=0.35))
            axes.text(device + 0.5, step + 0.5, f"k{owner}, v{owner}", ha="center", va="center", fontsize=10, color=INK)
    axes.set(xlim=(0, n_devices), ylim=(n_steps, 0))
    axes.set_xticks([i + 0.5 for i in range(n_devices)], [f"device {i}\nkeeps q{i}" for i in range(n_devices)])
    axes.xaxis.tick_top()
    axes.set_yticks([i + 0.5 for i in range(n_steps)], [f"step {i}" for i in range(n_steps)])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
