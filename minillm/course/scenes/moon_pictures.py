r"""Pictures of lesson 18's first half: moons in rows, codes in the latent plane, and the plane as moons."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, new_figure

NIGHT = LinearSegmentedColormap.from_list("night", ["#16203c", "#6d6a70", "#fff3c4"])
CALENDAR = "twilight_shifted"  # its end is its beginning, as in a month: dark at new, pale at full
DOT = {"cmap": CALENDAR, "vmin": 0, "vmax": 1, "edgecolors": "#555555", "linewidths": 0.4}
DISC = 0.9  # of half a picture's side, as moons are drawn


def moon_rows(rows: Mapping[str, Float[Tensor, "N P"]], notes: Mapping[str, Sequence[str]] | None = None) -> Figure:
    r"""Draw rows of moons.

    Args:
        rows: for each name its pictures from left to right, (N, P).
        notes: for a name a word under each of its pictures.
    Returns: the picture, a row a name; where the disc of a moon would be stands a thin circle.
    """
    notes = notes or {}
    longest = max(len(pictures) for pictures in rows.values())
    heights = [1.32 if name in notes else 1.08 for name in rows]
    side = min(0.8, 7.2 / longest)
    figure, (axes,) = new_figure(width=1.6 + side * longest, height=side * sum(heights) + 0.1)
    top = 0.0
    for (name, pictures), height in zip(rows.items(), heights, strict=True):
        for place, picture in enumerate(pictures):
            _draw_moon(axes, picture, place, top)
            if name in notes:
                axes.text(place + 0.5, top + 1.02, notes[name][place], ha="center", va="top", fontsize=8, color=INK)
        axes.text(-0.12, top + 0.5, name, ha="right", va="center", fontsize=9, color=INK)
        top += height
    axes.set_axis_off()
    axes.set(xlim=(-1.5 / side * 0.8, longest + 0.05), ylim=(top, -0.05), aspect="equal")
    return figure


def _draw_moon(axes: Axes, picture: Tensor, left: float, top: float) -> None:
    size = round(len(picture) ** 0.5)
    look = {"cmap": NIGHT, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axes.imshow(picture.view(size, size).numpy(), extent=(left + 0.02, left + 0.98, top + 0.98, top + 0.02), **look)
    axes.add_patch(Circle((left + 0.5, top + 0.5), DISC * 0.48, fill=False, edgecolor="#7f8bb0", linewidth=0.5))


def latent_maps(
    maps: Mapping[str, tuple[Tensor, Tensor | None]], phases: Float[Tensor, "N"], samples: Tensor | None = None
) -> Figure:
    r"""Draw where pictures lie in the latent plane, coloured by their phase.

    Args:
        maps: for each model the codes of the pictures, (N, 2), and the widths of their bells, (N, 2), or None.
        phases: of the pictures, 0 to 1, see `moons.draw_moons`.
        samples: points of the prior that are drawn beneath, (M, 2).
    Returns: the picture, a panel a model; the dashed circles hold 39 and 86 per cent of N(0, I).
    """
    figure, panels = new_figure(len(maps), width=3.8 * len(maps) + 1.4, height=3.9)
    for axes, (name, (codes, widths)) in zip(panels, maps.items(), strict=True):
        for radius in (1, 2):
            axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=INK, linewidth=0.9, linestyle=(0, (3, 3))))
        if samples is not None:
            axes.plot(samples[:, 0], samples[:, 1], ".", color=PALE, markersize=4, zorder=0)
        if widths is not None:
            for code, width in list(zip(codes.tolist(), widths.tolist(), strict=True))[:: max(1, len(codes) // 24)]:
                axes.add_patch(Ellipse(code, 2 * width[0], 2 * width[1], facecolor=COLOURS[5], alpha=0.35, zorder=1))
        drawn = axes.scatter(codes[:, 0], codes[:, 1], c=phases, s=20, zorder=2, **DOT)
        reach = 1.12 * max(2.6, float(codes.abs().max()))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.set_xlabel("first latent feature", fontsize=9, color=INK)
        axes.set_title(name, fontsize=10, color=INK)
    panels[0].set_ylabel("second latent feature", fontsize=9, color=INK)
    bar = figure.colorbar(drawn, ax=panels, fraction=0.03, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["new", "first quarter", "full", "last quarter", "new"], fontsize=9)
    bar.outline.set_visible(False)
    return figure


def plane_of_moons(
    models: Mapping[str, tuple[Callable[[Tensor], Tensor], Tensor]], reach: float = 2.25, n_side: int = 13
) -> Figure:
    r"""Draw what each place of the latent plane decodes to.

    Args:
        models: for each name its decoder, (M, 2) to (M, P), and the codes of a month, (N, 2), drawn as a closed line.
        reach: the plane is drawn from -reach to reach.
        n_side: moons a side.
    Returns: the picture, a panel a model.
    """
    figure, panels = new_figure(len(models), width=4.2 * len(models), height=4.2)
    places = torch.linspace(-reach, reach, n_side)
    edge = reach + reach / (n_side - 1)
    for axes, (name, (decode, codes)) in zip(panels, models.items(), strict=True):
        y, x = torch.meshgrid(places.flip(0), places, indexing="ij")
        pictures = decode(torch.stack([x.flatten(), y.flatten()], dim=1))
        size = round(pictures.shape[1] ** 0.5)
        tiled = pictures.view(n_side, n_side, size, size).transpose(1, 2).reshape(n_side * size, n_side * size)
        axes.imshow(tiled.numpy(), cmap=NIGHT, vmin=0, vmax=1, extent=(-edge, edge, -edge, edge))
        inside = torch.cat([codes, codes[:1]])
        inside = inside.masked_fill((inside.abs() > edge).any(dim=1, keepdim=True), torch.nan)
        axes.plot(inside[:, 0], inside[:, 1], color=COLOURS[3], linewidth=2.0)
        axes.set_xlabel("first latent feature", fontsize=9, color=INK)
        axes.set_title(name, fontsize=10, color=INK)
    panels[0].set_ylabel("second latent feature", fontsize=9, color=INK)
    return figure
