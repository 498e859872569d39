r"""A walk through the latent plane: where one stands, and which picture is decoded there."""

from collections.abc import Mapping

import torch
from ipywidgets import Dropdown, FloatSlider, Widget
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from minillm.course.plots import COLOURS, INK, new_figure
from minillm.course.scenes.moon_pictures import DOT, NIGHT
from minillm.detours import moons
from minillm.detours.autoencoder import MoonCoder

REACH = 3.0  # of the sliders
MOON = 3.0  # a picture nearer than this to the moons looks like one


def walk_picture(
    coders: Mapping[str, MoonCoder], phases: Float[Tensor, "N"], model: str, first: float, second: float
) -> Figure:
    r"""Draw the plane with a cross where one stands, the picture that is decoded there, and the nearest true moon.

    Args:
        coders: models by name.
        phases: of the moons whose codes are shown.
        model: which of them.
        first: first latent feature.
        second: second latent feature.
    Returns: the picture.
    """
    coder = coders[model]
    with torch.no_grad():
        codes = coder.encode(moons.draw_moons(phases))[0]
        decoded = coder.decode(torch.tensor([[first, second]]))
    distance, phase = moons.nearest_moon(decoded)
    figure, (plane, picture, truth) = new_figure(3, width=8.8, height=3.2)
    for radius in (1, 2):
        plane.add_patch(Circle((0, 0), radius, fill=False, edgecolor=INK, linewidth=0.8, linestyle=(0, (3, 3))))
    plane.scatter(codes[:, 0], codes[:, 1], c=phases, s=14, **DOT)
    plane.plot([first], [second], "+", color=COLOURS[3], markersize=16, markeredgewidth=2.5)
    reach = max(1.1 * REACH, 1.1 * float(codes.abs().max()))
    plane.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    plane.set_title(f"{model}: you stand at the cross", fontsize=10, color=INK)
    word = "a moon" if float(distance) < MOON else "no moon"
    titles = {picture: f"decoded: {word}, {float(distance):.1f} away", truth: f"nearest moon, phase {float(phase):.2f}"}
    for axes, shown in ((picture, decoded), (truth, moons.draw_moons(phase))):
        size = round(shown.shape[1] ** 0.5)
        axes.imshow(shown.view(size, size).numpy(), cmap=NIGHT, vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set_title(titles[axes], fontsize=10, color=INK)
    return figure


def walk_controls(coders: Mapping[str, MoonCoder], first: float = 0.0, second: float = 0.0) -> dict[str, Widget]:
    r"""The controls of the walk.

    Args:
        coders: models by name; the last is the one that it starts with.
        first: where it starts.
        second: where it starts.
    Returns: a widget for each of the last three arguments of `walk_picture`.
    """
    look = {"style": {"description_width": "9em"}, "layout": {"width": "36em"}}
    steps = {"min": -REACH, "max": REACH, "step": 0.1, **look}
    return {
        "model": Dropdown(options=list(coders), value=list(coders)[-1], description="model", **look),
        "first": FloatSlider(value=first, description="first feature", **steps),
        "second": FloatSlider(value=second, description="second feature", **steps),
    }
