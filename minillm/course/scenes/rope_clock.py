r"""The RoPE clock: every pair of features is a hand that turns, and only the angle between two hands counts."""

import math

import torch
from ipywidgets import Dropdown, IntSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Wedge
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, new_figure
from minillm.layers import rope, rope_scaling

HEAD_DIM, TRAINED, REACH, FACTOR = 16, 64, 256, 4.0
SCALINGS = ("none", "position interpolation", "NTK-aware", "YaRN")
BASES = (100.0, 10_000.0, 500_000.0)
QUERY, KEY = COLOURS[3], COLOURS[0]


def explored_inv_freq(base: float, scaling: str) -> Tensor:
    r"""How fast the pairs turn, plain or slowed down for a text four times as long.

    Args:
        base: RoPE's constant.
        scaling: one of SCALINGS.
    Returns: (HEAD_DIM / 2,) float32, radians per token.
    Raises:
        ValueError: if there is no such choice.
    """
    plain = rope.rope_inv_freq(HEAD_DIM, base)
    if scaling == SCALINGS[0]:
        return plain
    if scaling == SCALINGS[1]:
        return rope_scaling.interpolated_inv_freq(plain, FACTOR)
    if scaling == SCALINGS[2]:
        return rope.rope_inv_freq(HEAD_DIM, rope_scaling.ntk_base(base, FACTOR, HEAD_DIM))
    if scaling == SCALINGS[3]:
        return rope_scaling.yarn_inv_freq(HEAD_DIM, base, FACTOR, TRAINED)
    raise ValueError(f"scaling={scaling!r}: choose one of {', '.join(SCALINGS)}")


def relative_scores(distances: Tensor, inv_freq: Tensor) -> Tensor:
    r"""The score of a query and a key that are alike in every pair, at given distances, beside that at distance 0.

    Args:
        distances: (n,) tokens.
        inv_freq: (half,) radians per token.
    Returns: (n,) float32, at most 1: the mean cosine over the pairs.
    """
    return (distances[:, None] * inv_freq).cos().mean(-1)


def clock_picture(query: int, key: int, base: float, scaling: str) -> Figure:
    r"""Draw a dial for each pair, with a hand for the query and one for the key; beside it score against distance.

    Args:
        query: the query's position.
        key: the key's position.
        base: RoPE's constant.
        scaling: one of SCALINGS.
    Returns: the picture.
    """
    inv_freq = explored_inv_freq(base, scaling)
    figure, (left, right) = new_figure(2, width=10.0, height=4.2)
    left.set_axis_off()
    for pair, speed in enumerate(inv_freq.tolist()):
        column, row = pair % 4, pair // 4
        _draw_dial(left, (2.6 * column, -3.2 * row), query * speed, key * speed)
        turn = 2 * math.pi / speed
        left.text(2.6 * column, 1.15 - 3.2 * row, f"pair {pair}", ha="center", va="bottom", fontsize=9, color=INK)
        words = f"a turn in {turn:,.0f}" if turn >= 10 else f"a turn in {turn:.1f}"
        left.text(2.6 * column, -1.15 - 3.2 * row, words, ha="center", va="top", fontsize=8, color=INK)
    left.set(xlim=(-1.3, 9.1), ylim=(-5.1, 1.9), aspect="equal")
    left.set_title(f"query at {query} (red), key at {key} (blue): distance {query - key}", fontsize=10, color=INK)
    _draw_scores(right, inv_freq, abs(query - key))
    return figure


def clock_controls() -> dict[str, Widget]:
    r"""The controls of the clock: two positions, the base, and how the angles are slowed down.

    Returns: a widget for each argument of `clock_picture`.
    """
    look = {"style": {"description_width": "8em"}, "layout": {"width": "34em"}}
    return {
        "query": IntSlider(value=40, min=0, max=REACH - 1, description="query's position", **look),
        "key": IntSlider(value=30, min=0, max=REACH - 1, description="key's position", **look),
        "base": Dropdown(options=[(f"{base:,.0f}", base) for base in BASES], value=BASES[1], **look),
        "scaling": Dropdown(options=SCALINGS, value=SCALINGS[0], description="slowed down by", **look),
    }


def _draw_dial(axes: Axes, centre: tuple[float, float], query_angle: float, key_angle: float) -> None:
    x, y = centre
    between = math.degrees(query_angle - key_angle) % 360
    start = math.degrees(key_angle) % 360
    first, last = (start, start + between) if between <= 180 else (start + between, start + 360)
    axes.add_patch(Wedge(centre, 0.75, first, last, facecolor=PALE))
    axes.add_patch(Circle(centre, 1.0, fill=False, edgecolor=INK, linewidth=1.0))
    for angle, colour, width in ((key_angle, KEY, 2.6), (query_angle, QUERY, 1.6)):
        axes.plot([x, x + 0.92 * math.cos(angle)], [y, y + 0.92 * math.sin(angle)], color=colour, linewidth=width)


def _draw_scores(axes: Axes, inv_freq: Tensor, distance: int) -> None:
    distances = torch.arange(REACH)
    scores = relative_scores(distances, inv_freq)
    axes.axvspan(0, TRAINED, color=PALE, alpha=0.45, linewidth=0)
    axes.text(TRAINED / 2, -0.66, f"trained on\nup to {TRAINED}", ha="center", va="bottom", fontsize=8, color=INK)
    axes.plot(distances, scores, color=COLOURS[2], linewidth=1.6)
    axes.plot([distance], [float(scores[distance])], "o", color=QUERY, markersize=8)
    axes.set(xlim=(0, REACH), ylim=(-0.7, 1.05))
    axes.set_xlabel("distance, tokens", fontsize=9, color=INK)
    axes.set_title("score of a query and a key that are alike (1 at distance 0)", fontsize=10, color=INK)
