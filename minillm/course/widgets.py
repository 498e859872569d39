r"""Widgets over pure functions: live in JupyterLab, a picture everywhere else."""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any

from ipywidgets import HTML, VBox
from matplotlib.figure import Figure

from minillm.course.plots import picture_bundle, png_bytes

CONTROLS = "[controls that change a picture:"  # how a stored Explorer begins, where it is text only


def image_tag(png: bytes, alt: str) -> str:
    r"""A picture as HTML, no wider than the cell: the Image widget has no place for an alt text.

    Args:
        png: the file's content.
        alt: what it shows.
    Returns: an img element.
    """
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    return f'<img alt="{escape(alt)}" style="max-width: 100%; height: auto" src="{source}">'


class Explorer(VBox):
    r"""Controls above a picture that is drawn anew when one of them is moved.

    Where no kernel runs (a page on the web, a test), the picture of the starting values is shown with its alt text.
    Every control of ipywidgets works from the keyboard.

    Args:
        draw: a pure function from the controls' values, by name, to a picture.
        alt: what the picture of the starting values shows, in a sentence.
        controls: a widget with a `value` for each argument of `draw`; its label is that name, if it has none.
    """

    def __init__(self, draw: Callable[..., Figure], alt: str, **controls: Any) -> None:
        self.draw, self.alt, self.controls = draw, alt, controls
        self.bundle = picture_bundle(self._png(), alt)
        self.picture = HTML(image_tag(self.bundle[0]["image/png"], alt))
        for name, control in controls.items():
            control.description = control.description or name.replace("_", " ")
            control.observe(self._redraw, names="value")
        super().__init__([*controls.values(), self.picture])

    def _png(self) -> bytes:
        return png_bytes(self.draw(**{name: control.value for name, control in self.controls.items()}))

    def _redraw(self, change: Any) -> None:
        self.picture.value = image_tag(self._png(), self.alt)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self.bundle
        text = f"{CONTROLS} {self.alt}]"
        return {**super()._repr_mimebundle_(**kwargs), **data, "text/plain": text}, metadata


class LivePicture(VBox):
    r"""A picture that changes while a cell runs.

    Args:
        png: the first picture.
        alt: what it shows, in a sentence.
    """

    def __init__(self, png: bytes, alt: str) -> None:
        self.alt = alt
        self.picture = HTML(image_tag(png, alt))
        self.note = f"[picture that is drawn while the cell runs: {alt}]"
        super().__init__([self.picture])

    def update(self, png: bytes) -> None:
        r"""Show another picture.

        Args:
            png: the file's content.
        """
        self.picture.value = image_tag(png, self.alt)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        # No PNG here: when the cell has ended, the last picture is shown by itself.
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": self.note}
