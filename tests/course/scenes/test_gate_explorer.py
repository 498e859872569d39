r"""The explorer of lesson 06, and its drawings: what they compute, and that every choice can be drawn."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from minillm.course.scenes import gate_explorer, gate_pictures
from minillm.course.scenes.gate_explorer import BENDS, FORMS, explored_bend, hidden_unit, slope_of
from minillm.layers.ffn import GLU, MLP

TORCHS = {
    "identity": lambda x: x, "ReLU": F.relu, "ReLU squared": lambda x: F.relu(x) ** 2, "GELU": F.gelu,
    "GELU, tanh form": lambda x: F.gelu(x, approximate="tanh"), "Swish": lambda x: x * torch.sigmoid(2.5 * x),
    "sigmoid": torch.sigmoid,
}  # fmt: skip


@pytest.mark.parametrize("bend", BENDS)
def test_every_choice_is_the_function_it_says(bend: str, fresh_seed: int) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(fresh_seed))
    torch.testing.assert_close(explored_bend(bend, 2.5)(x), TORCHS[bend](x))


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="bend='mish'"):
        explored_bend("mish", 1.0)


def test_slope_is_that_of_small_steps(fresh_seed: int) -> None:
    x = torch.randn(30, generator=torch.Generator().manual_seed(fresh_seed), dtype=torch.float64)
    steps = (F.gelu(x + 1e-6) - F.gelu(x - 1e-6)) / 2e-6
    torch.testing.assert_close(slope_of(F.gelu, x), steps, atol=1e-6, rtol=1e-6)
    assert not x.requires_grad


def test_hidden_unit_is_that_of_the_modules(fresh_seed: int) -> None:
    points = torch.randn(9, 2, generator=torch.Generator().manual_seed(fresh_seed))
    mlp, glu = MLP(2, 1, "silu"), GLU(2, 1, "silu")
    for weight, values in (
        (mlp.up_proj, [1.0, 0.0]), (glu.gate_proj, [1.0, 0.0]),
        (glu.up_proj, [math.cos(math.radians(30)), math.sin(math.radians(30))]),
    ):  # fmt: skip
        weight.weight.data.copy_(torch.tensor([values]))
    for module, form in ((mlp, FORMS[0]), (glu, FORMS[1])):
        module.down_proj.weight.data.copy_(torch.tensor([[1.0], [0.0]]))
        torch.testing.assert_close(hidden_unit(points, F.silu, form, 30), module(points)[:, 0])


def test_explorer_draws_every_setting_of_its_choices() -> None:
    values = {name: control.value for name, control in gate_explorer.gate_controls().items()}
    assert values["form"] == FORMS[1]
    for bend, form in product(BENDS, FORMS):
        figure = gate_explorer.gate_picture(**values | {"bend": bend, "form": form})
        curve = figure.axes[0].lines[0]
        x, y = (torch.as_tensor(numbers) for numbers in (curve.get_xdata(), curve.get_ydata()))
        torch.testing.assert_close(explored_bend(bend, values["beta"])(x), y)
        assert form in figure.axes[1].get_title()


def test_drawings_hold_what_they_are_given() -> None:
    figure = gate_pictures.losses_picture(
        [{"name": "a", "values": {"loss": [1.0, 2.0]}}, {"name": "b", "values": {"loss": [5.0, 5.5]}}], "two")
    dots = [line.get_xdata() for line in figure.axes[0].lines]
    assert [list(found) for found in dots] == [[1.0, 2.0], [1.5, 1.5], [5.0, 5.5], [5.25, 5.25]]
    forms = gate_pictures.ffn_forms()
    words = [[text.get_text() for text in axes.texts] for axes in forms.axes]
    assert [sum(word.endswith("_proj") for word in panel) for panel in words] == [2, 3]
    bends = gate_pictures.bends_picture({"ReLU": F.relu, "GELU": F.gelu})
    assert isinstance(bends, Figure) and len(bends.axes[1].lines) == 2
