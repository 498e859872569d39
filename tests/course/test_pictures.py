r"""Pictures, widgets and the live curve: one style, always with a text, a picture where nothing is live."""

from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from PIL import Image

from minillm.course import plots
from minillm.course.builder.outputs import WIDGET_VIEW
from minillm.course.live import LossCurve
from minillm.course.widgets import Explorer, image_tag

PNG = b"\x89PNG"
ALT = "three weights, the second of them the largest"


def every_kind() -> list[Figure]:
    figures = []
    for draw in (
        lambda a: plots.heat_map(a, torch.eye(3), list("abc"), ["the", "cat", "sat"], "weights", 0, 1, ".1f"),
        lambda a: plots.heat_map(a, torch.ones(2, 3, dtype=torch.bool), title="mask"),
        lambda a: plots.bar_chart(a, {"with": 1.0, "without": 2.0}, "loss", "nats"),
        lambda a: plots.line_chart(a, {"a": ([0, 1], [1, 2]), "b": ([0, 1], [2, 1])}, "t", "x", "y", (1.5, "floor")),
        lambda a: plots.attention_arrows(a, torch.softmax(torch.randn(2, 4), -1), ["it", "was"], list("abcd"), "who"),
        lambda a: plots.vector_arrows(a, {"q": (1.0, 0.5), "k": (-0.5, 1.0)}, "plane"),
    ):
        figure, (axes,) = plots.new_figure()
        draw(axes)
        figures.append(figure)
    return figures


def test_every_picture_is_drawn_on_white_and_the_same_each_time(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for number, figure in enumerate(every_kind()):
        png = plots.png_bytes(figure)
        assert png.startswith(PNG) and png == plots.png_bytes(figure)
        path = tmp_path / f"{number}.png"
        path.write_bytes(png)
        picture = Image.open(path).convert("RGBA")
        corners = [picture.getpixel((x, y)) for x in (0, picture.width - 1) for y in (0, picture.height - 1)]
        assert corners == [(255, 255, 255, 255)] * 4, "opaque, so that dark ink stays readable in a dark theme"
        assert len(picture.getcolors(maxcolors=2**24)) > 2, "something is drawn"


def test_colours_differ_in_lightness_or_hue_for_the_colour_blind() -> None:
    r"""Machado et al. 2009, table 1: deuteranopia and protanopia at full strength, on linear RGB."""
    kinds = {
        "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
        "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    }
    rgb = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in plots.COLOURS], dtype=torch.float64)
    for matrix in kinds.values():
        seen = (rgb**2.2) @ torch.tensor(matrix, dtype=torch.float64).T
        distance = torch.cdist(seen.clamp(0, 1) ** (1 / 2.2), seen.clamp(0, 1) ** (1 / 2.2))
        assert float((distance + torch.eye(len(rgb))).min()) > 0.1


def test_picture_carries_its_text() -> None:
    InteractiveShell.clear_instance()
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            plots.show(every_kind()[0], ALT)
    finally:
        InteractiveShell.clear_instance()
    (output,) = captured.outputs
    assert output.data["text/plain"] == f"[picture: {ALT}]"
    assert output.metadata["image/png"]["alt"] == ALT
    with pytest.raises(ValueError, match="alt='short'"):
        plots.show(every_kind()[0], "short")


def power_picture(exponent: int) -> Figure:
    figure, (axes,) = plots.new_figure()
    plots.line_chart(axes, {"y": ([0, 1, 2], [x**exponent for x in (0, 1, 2)])})
    return figure


def test_explorer_is_live_and_has_a_picture_to_fall_back_on() -> None:
    slider = ipywidgets.IntSlider(value=1, min=1, max=4, description="exponent")
    widget = Explorer(power_picture, "a line that bends up as the exponent grows", exponent=slider)
    data, metadata = widget._repr_mimebundle_()
    assert data["image/png"] == plots.png_bytes(power_picture(1))
    assert data["text/plain"] == "[controls that change a picture: a line that bends up as the exponent grows]"
    assert WIDGET_VIEW in data and metadata["image/png"]["alt"].startswith("a line")
    slider.value = 3
    assert widget.picture.value == image_tag(plots.png_bytes(power_picture(3)), widget.alt)
    assert 'alt="a line that bends' in widget.picture.value
    assert widget._repr_mimebundle_()[0]["image/png"] == plots.png_bytes(power_picture(1)), "what is stored stays"


def test_loss_curve_follows_the_callback_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("minillm.course.live.get_ipython", lambda: object())
    monkeypatch.setattr("minillm.course.live.display", shown.append)
    monkeypatch.setattr("minillm.course.live.show", lambda figure, alt: shown.append(alt))
    curve = LossCurve("Stories", floor=0.5)
    curve.on_start({"n_params": 3})
    pictures = set()
    for step in range(1000):
        curve.on_step({"step": step, "seconds": step / 100, "loss": 2.0 - step / 1000, "tokens": step})
        pictures.add(curve.live.picture.value if curve.live else "")
    curve.on_end({})
    assert 5 < len(pictures) < 40, "drawn now and then, not at every step"
    assert len(shown) == 2 and shown[1] == "Stories: the loss over the seconds of training, from high to low"
    assert curve.live is None
    assert shown[0].note == "[picture that is drawn while the cell runs: the loss of Stories as it falls]"


def test_loss_curve_outside_of_a_notebook_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    curve = LossCurve()
    curve.on_start({})
    curve.on_step({"seconds": 1.0, "loss": 1.0})
    curve.on_end({})
    assert capsys.readouterr().out == ""
