r"""What watches a training run.

A callback is any object with some of these methods; each is given a dictionary of plain numbers and strings:

    on_start(info)   n_params, n_trained, dtype, device, step, max_steps, max_seconds
    on_step(info)    step, progress (0 to 1), seconds, loss, tokens, tokens_per_s, learning_rate, grad_norm,
                     and what `evaluate` returned, at the steps where it ran
    on_end(info)     as the last on_step

The loop knows no plot, no file and no screen: those are callbacks.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tqdm import tqdm

Info = dict[str, Any]


def notify(callbacks: Iterable[Any], event: str, info: Mapping[str, Any]) -> None:
    r"""Call the method named `event` of every callback that has it; each gets a copy of the info.

    Args:
        callbacks: objects.
        event: `on_start`, `on_step` or `on_end`.
        info: what to tell them.
    Lesson: 08.
    """
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is not None:
            method(dict(info))


class History:
    r"""Keeps every info of `on_step` in the list `steps`. Lesson: 08."""

    def __init__(self) -> None:
        self.steps: list[Info] = []

    def on_step(self, info: Info) -> None:
        self.steps.append(info)


class ProgressBar:
    r"""A bar that fills with the run, with the loss beside it.

    Args:
        floor: nats a token that no model can beat, where it is known; then the distance to it is shown. None: the loss.
        file: an open text file to draw on; None = standard error.
    Lesson: 08.
    """

    def __init__(self, floor: float | None = None, file: Any = None) -> None:
        self.floor, self.file = floor, file
        self._bar: tqdm | None = None
        self._smooth: float | None = None

    def on_start(self, info: Info) -> None:
        layout = "{percentage:3.0f}%|{bar}| {elapsed} {postfix}"
        self._bar = tqdm(total=100, bar_format=layout, file=self.file or sys.stderr, mininterval=0.2)

    def on_step(self, info: Info) -> None:
        old = info["loss"] if self._smooth is None else self._smooth
        self._smooth = 0.95 * old + 0.05 * info["loss"]
        self._bar.set_postfix_str(self._text(info), refresh=False)
        self._bar.update(100 * info["progress"] - self._bar.n)

    def on_end(self, info: Info) -> None:
        self._bar.close()

    def _text(self, info: Info) -> str:
        if self.floor is None:
            loss = f"loss {self._smooth:.3f} nats/token"
        else:
            loss = f"{self._smooth - self.floor:+.3f} nats/token over the floor"
        speed = info["tokens_per_s"]
        shown = f"{speed / 1000:.1f} k" if speed >= 1000 else f"{speed:.0f}"
        return f"step {info['step']}, {loss}, {shown} tokens/s"


class EverySeconds:
    r"""Calls a function, such as one that saves a checkpoint, whenever so many seconds of training have passed.

    Args:
        seconds: above 0.
        function: of no arguments.
    Lesson: 08.
    """

    def __init__(self, seconds: int | float, function: Callable[[], None]) -> None:
        self.seconds, self.function = seconds, function
        self._last = 0.0

    def on_start(self, info: Info) -> None:
        self._last = info["seconds"]

    def on_step(self, info: Info) -> None:
        if info["seconds"] - self._last >= self.seconds:
            self._last = info["seconds"]
            self.function()
