r"""The norm explorer: choose two designs and a depth, and see stream, likeness and gradients layer by layer."""

import math
from typing import Any

import torch
from ipywidgets import Dropdown, FloatSlider, IntSlider
from matplotlib.figure import Figure

from minillm.course.plots import INK, new_figure
from minillm.course.scenes.deep_stacks import N_CLASSES, PLACES, Readings, fresh_stack, plain_norm, read_stack
from minillm.course.scenes.norm_pictures import depth_chart

SEEDS = (0, 1, 2)
KINDS = {"LayerNorm": "layer", "RMSNorm": "rms"}
MOST_LAYERS = 96


def explored_readings(place: str, kind: str, n_layers: int, gain: float) -> Readings:
    r"""What fresh stacks of one design show.

    Args:
        place: one of PLACES.
        kind: one of KINDS.
        n_layers: 1 to MOST_LAYERS.
        gain: factor on the fresh weights.
    Returns: the readings of three seeds.
    Raises:
        ValueError: if n_layers is out of its range or there is no such kind.
    """
    if not 1 <= n_layers <= MOST_LAYERS:
        raise ValueError(f"n_layers={n_layers}: use 1 to {MOST_LAYERS}")
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KINDS)}")
    return read_stack(fresh_stack(place, n_layers, SEEDS, gain), SEEDS, plain_norm(KINDS[kind]))


def depth_picture(place: str, beside: str, kind: str, n_layers: int, gain: float) -> Figure:
    r"""Draw two designs beside each other: how large the stream is, how alike the points are, how large gradients are.

    Args:
        place: one of PLACES.
        beside: another of PLACES, or the same.
        kind: one of KINDS.
        n_layers: 1 to MOST_LAYERS.
        gain: factor on the fresh weights.
    Returns: the picture.
    """
    found = {name: explored_readings(name, kind, n_layers, gain) for name in dict.fromkeys((place, beside))}
    figure, panels = new_figure(columns=3, width=10.2, height=3.5)
    charts = (
        ("variance", "variance of the stream, input = 1", 0, True),
        ("likeness", "mean cosine of two points", 0, False),
        ("gradient", "gradient of the layer's first matrix", 1, True),
    )
    for axes, (measure, title, first, log) in zip(panels, charts, strict=True):
        curves = {name: _means(getattr(readings, measure), readings.variance) for name, readings in found.items()}
        depth_chart(axes, curves, title, "", first, log)
        values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
        if log and values and max(values) < 10 * min(values):  # nearly flat: an axis of a decade shows that it is
            middle = math.sqrt(max(values) * min(values))
            axes.set_ylim(middle / 4, 4 * middle)
    panels[1].set_ylim(-0.05, 1.05)
    panels[0].legend(fontsize=9, frameon=False)
    losses = ", ".join(f"{name} {_mean(readings.loss):.3g}" for name, readings in found.items())
    figure.suptitle(f"first loss, ln {N_CLASSES} = {math.log(N_CLASSES):.2f}: {losses}", fontsize=10, color=INK)
    return figure


def norm_controls() -> dict[str, Any]:
    r"""Make the controls of the explorer, at 48 layers.

    Returns: a control for each argument of `depth_picture`.
    """
    look = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}
    return {
        "place": Dropdown(options=PLACES, value="pre-norm", description="design", **look),
        "beside": Dropdown(options=PLACES, value="post-norm", description="beside it", **look),
        "kind": Dropdown(options=list(KINDS), value="LayerNorm", description="norm", **look),
        "n_layers": IntSlider(
            value=48, min=2, max=MOST_LAYERS, description="layers", continuous_update=False, **look),
        "gain": FloatSlider(
            value=1.0, min=0.25, max=2.0, step=0.25, description="fresh weights ×", continuous_update=False, **look),
    }  # fmt: skip


def _mean(values: torch.Tensor) -> float:
    return float(values.mean())


def _means(values: list[torch.Tensor], variance: list[torch.Tensor]) -> list[float]:
    r"""The means, nan from the layer on at which the stream has left the range of float32."""
    whole = [bool(size.isfinite().all()) for size in variance[-len(values) :]]
    return [_mean(value) if good else math.nan for value, good in zip(values, whole, strict=True)]
