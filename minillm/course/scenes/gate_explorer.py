r"""The explorer of lesson 06: how an activation bends a line, and what one hidden unit makes of a plane of inputs."""

import math
from collections.abc import Callable
from typing import Any

import torch
from ipywidgets import Dropdown, FloatLogSlider, IntSlider, ToggleButtons
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, line_chart, new_figure
from minillm.layers import activations

BENDS = ("identity", "ReLU", "ReLU squared", "GELU", "GELU, tanh form", "Swish", "sigmoid")
FORMS = ("one projection (MLP)", "gate and value (GLU)")
REACH = 3.0


def explored_bend(bend: str, beta: float) -> Callable[[Tensor], Tensor]:
    r"""The activation behind the explorer's controls.

    Args:
        bend: one of BENDS.
        beta: of Swish; the others have none.
    Returns: a function of one tensor.
    Raises:
        ValueError: if there is no such choice.
    """
    named = {"identity": "identity", "ReLU": "relu", "ReLU squared": "relu_squared", "GELU": "gelu",
             "GELU, tanh form": "gelu_tanh", "sigmoid": "sigmoid"}
    if bend == "Swish":
        return lambda x: activations.swish(x, beta)
    if bend not in named:
        raise ValueError(f"bend={bend!r}: choose one of {', '.join(BENDS)}")
    return activations.activation(named[bend])


def slope_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""The derivative of a function that bends each number by itself.

    Args:
        function: which.
        x: where, any shape.
    Returns: the shape of x.
    """
    inputs = x.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(inputs).sum(), inputs)
    return slope


def hidden_unit(points: Tensor, bend: Callable[[Tensor], Tensor], form: str, angle: float) -> Tensor:
    r"""What one hidden unit answers to inputs of two features.

    Its first weights point along the first feature; a gated unit multiplies by a second projection, turned by an angle.

    Args:
        points: (..., 2).
        bend: the activation.
        form: one of FORMS.
        angle: between gate and value, in degrees.
    Returns: (...,).
    """
    opened = bend(points[..., 0])
    if form == FORMS[0]:
        return opened
    turn = math.radians(angle)
    return opened * (math.cos(turn) * points[..., 0] + math.sin(turn) * points[..., 1])


def gate_picture(bend: str, beta: float, form: str, angle: int) -> Figure:
    r"""Draw the activation with its slope, and the hidden unit over the plane.

    Args:
        bend: one of BENDS.
        beta: of Swish.
        form: one of FORMS.
        angle: between gate and value, in degrees; of a gated unit only.
    Returns: the picture.
    """
    figure, (left, right) = new_figure(columns=2, width=9.2, height=3.9)
    function = explored_bend(bend, beta)
    x = torch.linspace(-REACH, REACH, 241)
    name = f"Swish, beta {beta:.3g}" if bend == "Swish" else bend
    line_chart(left, {"value": (x, function(x)), "slope": (x, slope_of(function, x))}, name, "x")
    left.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    left.axvline(0, color=PALE, linewidth=0.8, zorder=0)
    left.set_ylim(-1.2, REACH + 0.2)
    _draw_plane(figure, right, function, form, angle)
    return figure


def _draw_plane(figure: Figure, axes: Axes, function: Callable[[Tensor], Tensor], form: str, angle: int) -> None:
    side = torch.linspace(-REACH, REACH, 121)
    points = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    values = hidden_unit(points, function, form, angle)
    reach = max(1.0, float(values.abs().max()))
    shades = axes.contourf(side, side, values, levels=torch.linspace(-reach, reach, 22).tolist(), cmap="PuOr")
    figure.colorbar(shades, ax=axes, shrink=0.9, ticks=[-reach, 0, reach], format="%.2g")
    axes.contour(side, side, values, levels=[0.0], colors=INK, linewidths=0.8)
    turn = math.radians(angle)
    arrows = {"gate": (1.0, 0.0), "value": (math.cos(turn), math.sin(turn))}
    if form == FORMS[0]:
        arrows = {"weights": (1.0, 0.0)}
    for number, (label, (a, b)) in enumerate(arrows.items()):
        axes.annotate("", (1.6 * a, 1.6 * b), (0, 0),
                      arrowprops={"arrowstyle": "-|>", "color": COLOURS[(2, 3)[number]], "linewidth": 2})
        axes.annotate(label, (1.6 * a, 1.6 * b), textcoords="offset points", xytext=(6, 6 - 18 * number), fontsize=10,
                      color=INK, bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5})
    axes.set(xlabel="first feature", ylabel="second feature", aspect="equal")
    axes.set_title(f"one hidden unit: {form}", fontsize=10, color=INK)


def gate_controls() -> dict[str, Any]:
    r"""Make the controls of the explorer, at the unit of a SwiGLU.

    Returns: a control for each argument of `gate_picture`.
    """
    look = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}
    return {
        "bend": Dropdown(options=list(BENDS), value="Swish", description="activation", **look),
        "beta": FloatLogSlider(value=1.0, base=10, min=-1, max=2, step=0.05, description="beta of Swish", **look),
        "form": ToggleButtons(options=list(FORMS), value=FORMS[1], description="hidden unit",
                              style={"description_width": "7em", "button_width": "13em"}),
        "angle": IntSlider(value=90, min=0, max=180, step=15, description="gate to value", **look),
    }
