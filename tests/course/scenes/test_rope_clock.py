r"""The RoPE clock: speeds and scores by hand, and a picture that shows the angle between the hands."""

import math
from itertools import pairwise

import pytest
import torch
from matplotlib.patches import Wedge

from minillm.course.scenes.rope_clock import (
    BASES,
    FACTOR,
    HEAD_DIM,
    REACH,
    SCALINGS,
    clock_controls,
    clock_picture,
    explored_inv_freq,
    relative_scores,
)
from minillm.course.widgets import Explorer


@pytest.mark.parametrize("base", BASES)
def test_speeds_of_every_scaling(base: float) -> None:
    plain = [base ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)]
    speeds = {scaling: explored_inv_freq(base, scaling).tolist() for scaling in SCALINGS}
    assert speeds["none"] == pytest.approx(plain, rel=1e-5)
    assert speeds["position interpolation"] == pytest.approx([speed / FACTOR for speed in plain], rel=1e-5)
    for scaling in ("NTK-aware", "YaRN"):
        assert speeds[scaling][0] == pytest.approx(1.0)
        assert speeds[scaling][-1] == pytest.approx(plain[-1] / FACTOR, rel=1e-5)
        shares = [a / b for a, b in zip(speeds[scaling], plain, strict=True)]
        assert all(b < a + 1e-6 for a, b in pairwise(shares))
    assert speeds["NTK-aware"] != pytest.approx(speeds["YaRN"])
    with pytest.raises(ValueError, match="scaling='magic'"):
        explored_inv_freq(base, "magic")


def test_scores_are_dot_products_of_turned_vectors(fresh_seed: int) -> None:
    print(fresh_seed)
    inv_freq = explored_inv_freq(10_000.0, "none")
    distance = fresh_seed % REACH
    turned = sum(math.cos(distance * float(speed)) for speed in inv_freq) / len(inv_freq)
    scores = relative_scores(torch.tensor([0, distance]), inv_freq)
    assert scores.tolist() == pytest.approx([1.0, turned], abs=1e-4)


def test_dials_show_the_angle_between_the_hands() -> None:
    figure = clock_picture(17, 15, 10_000.0, "none")
    left, right = figure.axes
    speeds = explored_inv_freq(10_000.0, "none").tolist()
    between = [patch.theta2 - patch.theta1 for patch in left.patches if isinstance(patch, Wedge)]
    assert between == pytest.approx([math.degrees(2 * speed) for speed in speeds], abs=1e-6)
    mirrored = [p.theta2 - p.theta1 for p in clock_picture(15, 17, 10_000.0, "none").axes[0].patches
                if isinstance(p, Wedge)]  # fmt: skip
    assert mirrored == pytest.approx(between, abs=1e-6)
    ((x,), (y,)) = right.lines[-1].get_data()
    assert x == 2 and y == pytest.approx(sum(math.cos(2 * speed) for speed in speeds) / 8, abs=1e-5)


def test_every_control_changes_the_picture() -> None:
    explorer = Explorer(clock_picture, "eight dials, and a score that falls with distance", **clock_controls())
    seen = {explorer.picture.value}
    for name, value in (("query", 100), ("key", 0), ("base", 100.0), ("scaling", "YaRN")):
        explorer.controls[name].value = value
        seen.add(explorer.picture.value)
    assert len(seen) == 5
