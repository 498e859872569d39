r"""The training-memory calculator and the drawings of lesson 08."""

import pytest
import torch

from minillm.config import preset
from minillm.course.plots import new_figure
from minillm.course.scenes import memory_calculator, training_pictures
from minillm.course.widgets import Explorer
from minillm.model import counting

PLAIN = dict(model="gpt2", batch_size=8, seq_len=1024, dtype="fp32", recompute=False, flash=False, n_ranks=1, stage=0)


def parts_that_change(**changes):
    before, after = (memory_calculator.device_bytes(**PLAIN | other) for other in ({}, changes))
    assert after["total"] == pytest.approx(sum(after.values()) - after["total"])
    return {name for name in before if before[name] != after[name]} - {"total"}


def test_each_control_moves_its_own_part():
    assert parts_that_change(batch_size=4) == {"activations", "logits"}
    assert parts_that_change(recompute=True) == parts_that_change(flash=True) == {"activations"}
    assert parts_that_change(n_ranks=8) == set()  # plain data parallelism saves nothing
    assert parts_that_change(n_ranks=8, stage=1) == {"moments"}
    assert parts_that_change(n_ranks=8, stage=2) == {"moments", "gradients"}
    assert parts_that_change(n_ranks=8, stage=3) == {"moments", "gradients", "weights"}
    assert parts_that_change(dtype="bf16") == {"weights", "gradients", "masters", "activations"}


def test_the_seven_billion_of_the_zero_paper():
    n_parameters = counting.count_parameters(preset("llama-7b"))["total"]
    for stage, share in ((0, 16), (1, 4 + 12 / 64), (2, 2 + 14 / 64), (3, 16 / 64)):
        parts = memory_calculator.device_bytes("llama-7b", 1, 128, "bf16", True, True, 64, stage)
        state = sum(parts[name] for name in ("weights", "gradients", "masters", "moments"))
        assert state == pytest.approx(share * n_parameters)


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="model='gpt5'"):
        memory_calculator.device_bytes(**PLAIN | {"model": "gpt5"})


def test_the_calculator_redraws_and_tells_what_fits():
    explorer = Explorer(memory_calculator.calculator_picture, "bars of what a device holds",
                        **memory_calculator.calculator_controls())
    before = explorer.picture.value
    explorer.controls["model"].value = "llama-7b"
    assert explorer.picture.value != before
    titles = [memory_calculator.calculator_picture(**PLAIN | changes).get_suptitle()
              for changes in ({"seq_len": 128, "batch_size": 1}, {"model": "gpt3"})]
    assert "fits into 8 GiB" in titles[0] and "does not fit into 80 GiB" in titles[1]


def test_bars_are_as_long_as_their_parts():
    _, (axes,) = new_figure()
    training_pictures.memory_bars(axes, {"a": {"weights": 3, "logits": 1, "total": 4}, "b": {"weights": 2}}, unit=1)
    widths = [[bar.get_width() for bar in group] for group in axes.containers]
    assert widths == [[3.0, 2.0], [1.0, 0.0]]
    assert [group.patches[0].get_x() for group in axes.containers] == [0.0, 3.0]


def test_histogram_counts_every_number_that_is_not_zero():
    _, (axes,) = new_figure()
    training_pictures.gradient_histogram(axes, torch.tensor([0.0, 1e-9, -3.0, 2.5]), 4.0)
    assert sum(bar.get_height() for bar in axes.patches if hasattr(bar, "get_height") and bar.get_width() == 1) == 3


def test_paths_and_schedules_are_drawn_whole():
    _, (left, right) = new_figure(2)
    training_pictures.descent_paths(left, {"a": torch.zeros(5, 2), "b": torch.ones(3, 2)}, 10.0)
    assert [len(line.get_xdata()) for line in left.get_lines()] == [5, 3]
    training_pictures.schedule_chart(right, {"flat": [1.0] * 4})
    assert list(right.get_lines()[0].get_ydata()) == [1.0] * 4
