r"""A loss curve that grows while a model trains."""

from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from minillm.course.plots import line_chart, new_figure, png_bytes, show
from minillm.course.widgets import LivePicture

BETWEEN = 0.5  # seconds from one drawing to the next: drawing takes time from training
POINTS = 200  # that a curve is drawn with


class LossCurve:
    r"""A callback for training: draws the loss as it falls, and leaves the last picture in the notebook.

    Args:
        title: above the curve.
        floor: the lowest loss that is possible, where it is known, drawn as a level line.
    """

    def __init__(self, title: str = "Training", floor: float | None = None) -> None:
        self.title, self.floor = title, floor
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.live: LivePicture | None = None
        self.drawn_at = 0.0

    def on_start(self, info: dict[str, Any]) -> None:
        r"""Put the empty picture into the notebook.

        Args:
            info: not looked at.
        """
        self.seconds, self.losses, self.drawn_at = [], [], 0.0
        if get_ipython() is not None:
            self.live = LivePicture(self._png(), f"the loss of {self.title} as it falls")
            display(self.live)

    def on_step(self, info: dict[str, Any]) -> None:
        r"""Take down the loss; draw, if the last drawing is some time ago.

        Args:
            info: seconds and loss are looked at.
        """
        self.seconds.append(float(info["seconds"]))
        self.losses.append(float(info["loss"]))
        if self.live is not None and info["seconds"] - self.drawn_at >= BETWEEN:
            self.live.update(self._png())
            self.drawn_at = info["seconds"]

    def on_end(self, info: dict[str, Any]) -> None:
        r"""Replace the live picture by a lasting one.

        Args:
            info: not looked at.
        """
        if self.live is not None:
            self.live.close()
            self.live = None
        alt = f"{self.title}: the loss over the seconds of training"
        if self.losses:
            alt += ", from high to low" if self.losses[-1] < self.losses[0] else ", and it does not fall"
        show(self._figure(), alt)

    def _png(self) -> bytes:
        return png_bytes(self._figure())

    def _figure(self) -> Any:
        figure, (axes,) = new_figure(height=3.0)
        step = max(len(self.losses) // POINTS, 1)
        curve = (self.seconds[::step], self.losses[::step])
        level = None if self.floor is None else (self.floor, f"floor {self.floor:.3g}")
        line_chart(axes, {"loss": curve}, self.title, "seconds", "loss (nats a token)", level)
        return figure
