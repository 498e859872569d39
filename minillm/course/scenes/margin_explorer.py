r"""The margin explorer: kernel, width and penalty, on points that can be looked at."""

from functools import cache, partial

import torch
from ipywidgets import Dropdown, FloatLogSlider, IntSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minillm.course.plots import COLOURS, INK, bar_chart, new_figure
from minillm.course.scenes.margin_pictures import draw_decision
from minillm.detours import kernels
from minillm.detours.patterns import PATTERNS
from minillm.detours.svm import Kernel, Svm, accuracy, fit_svm

KERNELS = ("RBF", "polynomial", "linear")
N_TRAINING, N_HELD_OUT = 60, 400
MOST_STEPS = 4000  # so that a slider answers at once
SPREADS = {"two circles": 0.16, "four corners": 0.38, "two crescents": 0.2}  # wide enough for some to stray


def chosen_kernel(kind: str, gamma: float, degree: int) -> Kernel:
    r"""Make the kernel that the controls say.

    Args:
        kind: one of KERNELS.
        gamma: of the RBF kernel.
        degree: of the polynomial kernel.
    Returns: a function of (N, D) and (M, D).
    Raises:
        ValueError: if there is no such kernel.
    """
    if kind not in KERNELS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KERNELS)}")
    if kind == "RBF":
        return partial(kernels.rbf_kernel, gamma=gamma)
    return partial(kernels.polynomial_kernel, degree=degree) if kind == "polynomial" else kernels.linear_kernel


@cache
def fitted(pattern: str, kind: str, gamma: float, degree: int, penalty: float) -> tuple[Svm, float, float]:
    r"""Train a machine on 60 points and try it on 400 others.

    Args:
        pattern: one of PATTERNS.
        kind: one of KERNELS.
        gamma: of the RBF kernel.
        degree: of the polynomial kernel.
        penalty: C.
    Returns: the machine, its accuracy on its own points, and on the others.
    """
    generator = torch.Generator().manual_seed(18)
    draw = partial(PATTERNS[pattern], generator=generator, spread=SPREADS[pattern])
    (points, labels), held_out = draw(N_TRAINING), draw(N_HELD_OUT)
    machine = fit_svm(points, labels, chosen_kernel(kind, gamma, degree), penalty, most_steps=MOST_STEPS)
    return machine, accuracy(machine, points, labels), accuracy(machine, *held_out)


def margin_picture(pattern: str, kind: str, gamma: float, degree: int, penalty: float) -> Figure:
    r"""Draw the border that a machine finds, and what it is worth.

    Args:
        pattern: one of PATTERNS.
        kind: one of KERNELS.
        gamma: of the RBF kernel; another kernel has none.
        degree: of the polynomial kernel.
        penalty: C.
    Returns: the picture.
    """
    machine, known, new = fitted(pattern, kind, gamma, degree, penalty)
    figure, (left, right) = new_figure(2, width=8.0, height=4.0)
    labels = machine.weights.new_tensor([1.0, -1.0]).repeat(N_TRAINING // 2)
    n_support = int(machine.support.sum())
    draw_decision(left, machine, labels, f"{n_support} support vectors, half margin {machine.margin:.2g}")
    _draw_shares(right, known, new)
    return figure


def _draw_shares(axes: Axes, known: float, new: float) -> None:
    shares = {f"its own {N_TRAINING} points": 100 * known, f"{N_HELD_OUT} new ones": 100 * new}
    bar_chart(axes, shares, "on the right side of the border", "%", ".0f")
    axes.patches[1].set_color(COLOURS[2])
    axes.set_ylim(0, 112)
    axes.axhline(50, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_yticks([0, 50, 100])


def margin_controls(pattern: str = "two circles") -> dict[str, Widget]:
    r"""The controls of the explorer.

    Args:
        pattern: with which it starts.
    Returns: a widget for each argument of `margin_picture`.
    """
    look = {"style": {"description_width": "9em"}, "layout": {"width": "36em"}}
    steps = {"base": 10, "step": 0.25, "readout_format": ".2g", **look}
    return {
        "pattern": Dropdown(options=list(PATTERNS), value=pattern, description="points", **look),
        "kind": Dropdown(options=list(KERNELS), value="RBF", description="kernel", **look),
        "gamma": FloatLogSlider(value=1.0, min=-2, max=3, description="gamma (RBF)", **steps),
        "degree": IntSlider(value=2, min=1, max=8, description="degree (polynomial)", **look),
        "penalty": FloatLogSlider(value=1.0, min=-2, max=3, description="C", **steps),
    }
