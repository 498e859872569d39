r"""Pictures of lesson 13 show the numbers, places and masks that they were given."""

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from minillm.course.scenes.tuning_pictures import (
    FROZEN,
    TRAINED,
    factor_picture,
    places_picture,
    price_picture,
    seen_picture,
    shares_picture,
    spectrum_picture,
)


def boxes(axes, look):
    return [each for each in axes.patches if isinstance(each, Rectangle) and each.get_facecolor() == to_rgba(look[0])]


def test_factors_are_written_out_with_their_sum():
    weight, b, a = torch.eye(3), torch.tensor([[2.0], [0], [1]]), torch.tensor([[4.0, 0, 7]])
    (axes,) = factor_picture(weight, b, a).axes
    assert len(boxes(axes, FROZEN)) == 9 and len(boxes(axes, TRAINED)) == 6
    written = [text.get_text() for text in axes.texts]
    at = written.index("=") + 1
    assert [float(number) for number in written[at : at + 9]] == (weight + b @ a).flatten().tolist()


def test_places_of_all_methods_are_named():
    (axes,) = places_picture().axes
    written = " ".join(text.get_text().replace("\n", " ") for text in axes.texts)
    for method in ("LoRA", "adapter (Houlsby)", "parallel adapter", "prompt, P-tuning", "prefix: own k, v"):
        assert method in written
    assert len(boxes(axes, TRAINED)) == 9 and len(boxes(axes, FROZEN)) == 6


@pytest.mark.parametrize(("n_virtual", "n_words"), [(1, 2), (3, 4)])
def test_prompts_have_queries_and_prefixes_have_none(n_virtual, n_words):
    prompt, prefix = seen_picture(n_virtual, ["word"] * n_words).axes
    of_prompt = sum(min(i + 1, n_virtual) for i in range(n_virtual + n_words))
    real = n_words * (n_words + 1) // 2
    assert (len(boxes(prompt, TRAINED)), len(boxes(prompt, FROZEN))) == (of_prompt, real)
    assert (len(boxes(prefix, TRAINED)), len(boxes(prefix, FROZEN))) == (n_virtual * n_words, real)


def test_shares_are_bars_of_their_height():
    alone, beside = shares_picture(["a", "b"], [0.75, 0.25], [0.2, 0.6, 0.2], 1).axes
    assert [bar.get_height() for bar in alone.patches] == [0.0, 0.75, 0.25]
    assert [bar.get_height() for bar in beside.patches] == [0.2, 0.6, 0.2]
    assert alone.get_ylim() == beside.get_ylim()


def test_spectra_are_relative_to_their_largest():
    left, right = spectrum_picture({"W": [4.0, 2.0, 1.0]}, {"cut": ([1, 2], [3.0, 2.5])}, (2.7, "before")).axes
    assert list(left.get_lines()[0].get_ydata()) == [1.0, 0.5, 0.25]
    curve, level = right.get_lines()
    assert list(curve.get_ydata()) == [3.0, 2.5] and set(level.get_ydata()) == {2.7}
    assert [label.get_text() for label in right.get_xticklabels()] == ["1", "2"]


def test_each_method_is_a_point_in_each_panel_and_named_once():
    rows = {"one": (10, {"cost": 1.0, "lost": 3.0}), "two": (100, {"cost": 2.0, "lost": 4.0})}
    figure = price_picture(rows, "nats", (2.5, "as it was"))
    cost, lost = figure.axes
    assert [float(line.get_ydata()[0]) for line in cost.get_lines()] == [1.0, 2.0, 2.5]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in lost.get_lines()] == [(10, 3.0), (100, 4.0)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    assert cost.texts[0].get_text() == "as it was" and cost.get_ylim()[1] > 2.5
