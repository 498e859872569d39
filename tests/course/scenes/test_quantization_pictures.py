r"""Pictures of lesson 11 show the bits, steps and bounds that they were given."""

import math

import torch
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from minillm.course.scenes.quantization_pictures import (
    BIT_LOOKS,
    bit_boxes,
    outlier_picture,
    roofline_picture,
    rounding_picture,
    sharing_picture,
)


def boxes(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_every_bit_is_a_box_in_the_colour_of_its_field():
    rows = {"fp16": [("sign", "0"), ("exponent", "01011"), ("mantissa", "1001100110")], "int4": [("integer", "0001")]}
    (axes,) = bit_boxes(rows, {"fp16": "= a", "int4": "= b"}).axes
    drawn = boxes(axes)
    counts = {kind: sum(box.get_facecolor() == to_rgba(fill) for box in drawn) for kind, (fill, _) in BIT_LOOKS.items()}
    assert counts == {"sign": 1 + 1, "exponent": 5 + 1, "mantissa": 10 + 1, "integer": 4 + 1}  # one each is the legend
    written = [text.get_text() for text in axes.texts]
    assert "".join(text for text in written if text in "01") == "0010111001100110" + "0001"
    assert {"= a", "= b", "fp16", "int4", "sign"} <= set(written)


def test_numbers_are_joined_to_the_nearest_point_and_the_error_is_told():
    (axes,) = rounding_picture([0.2, 0.9], {"whole": [0, 1, 2], "halves": [0, 0.5, 1]}).axes
    lines = [tuple(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "None"]
    joins = [x for x in lines if len(x) == 2 and x != (0, 1)]
    assert joins == [(0.2, 0.0), (0.9, 1.0)] * 2
    error = math.sqrt((0.2**2 + 0.1**2) / 2)
    labels = [text.get_text() for text in axes.texts]
    assert labels == [f"whole\nerror {error:.3f}", f"halves\nerror {error:.3f}"]


def test_a_colour_a_scale():
    weight = torch.arange(16.0).view(2, 8)
    panels = sharing_picture(weight, 4).axes
    assert [len({box.get_facecolor() for box in boxes(axes)}) for axes in panels] == [1, 2, 4]
    titles = ["per tensor: 1 scale", "per row: 2 scales", "in groups of 4: 4 scales"]
    assert [axes.get_title() for axes in panels] == titles
    assert all([text.get_text() for text in axes.texts] == [f"{i}.0" for i in range(16)] for axes in panels)


def test_stems_beyond_the_threshold_stand_out():
    x = torch.zeros(3, 5)
    x[1, 2], x[0, 4], x[2, 0] = -9.0, 1.0, 2.0
    (axes,) = outlier_picture(x, [2], 6.0).axes
    quiet, loud = axes.collections
    assert [segment[0, 0] for segment in loud.get_segments()] == [2.0] and loud.get_segments()[0][1, 1] == 9.0
    assert len(quiet.get_segments()) == 4 and axes.texts[0].get_text() == "feature 2"


def test_a_roof_bends_where_arithmetic_takes_over():
    (axes,) = roofline_picture({"a": (100e9, 10e9)}, {"work": (2.0, 5e9)}).axes
    roof, bend, point = axes.get_lines()
    x, y = (torch.as_tensor(data) for data in roof.get_data())
    assert torch.allclose(y[x < 9.9], 10 * x[x < 9.9]) and (y[x > 10.1] == 100).all()
    assert (bend.get_xdata()[0], bend.get_ydata()[0]) == (10.0, 100.0)
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (2.0, 5.0)
    assert axes.get_xscale() == axes.get_yscale() == "log"
