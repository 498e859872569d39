r"""Watch a story model learn: its curve, and a story of its own every few seconds."""

import math
import textwrap
import time
from typing import Any

import torch
from IPython.core.getipython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from minillm.course.plots import COLOURS, PALE, line_chart, new_figure, png_bytes, show
from minillm.course.scenes.story_surprise import price_of_forgetting, remembered_mask, surprise_parts
from minillm.course.widgets import LivePicture
from minillm.inference.evaluate import sample_stories
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import validation_rows

N_STORIES = 48  # validation stories that are measured at each look
LOOK_EVERY, DRAW_EVERY = 0.5, 1.0  # seconds; each takes time from training,
SHARE, RAREST = 0.05, 2.0  # at most this share of it; but at least once in so many seconds
TICKS = (25, 50, 100, 200, 400, 800)


class StoryWatch:
    r"""A callback for training: measures, draws, and lets the model tell a story from time to time.

    `looks` holds what was measured: dictionaries with "seconds", "step", "story" and "remembered", in nats a story.

    Args:
        model: the one that is trained, before its first step.
        language: the story language.
        story_every: seconds of training from one story to the next.
    """

    def __init__(self, model: Any, language: StoryLanguage, story_every: float = 5.0) -> None:
        self.model, self.language, self.story_every = model, language, story_every
        self.rows = validation_rows(language, N_STORIES, seed=0)
        self.mask = remembered_mask(language, self.rows)
        self.forgetting = price_of_forgetting(language, [language.tokenizer.decode(row) for row in self.rows.tolist()])
        self.looks: list[dict[str, float]] = []
        self.live: LivePicture | None = None
        self._next_look, self._next_drawing, self._next_story = 0.0, 0.0, 0.0

    def on_start(self, info: dict[str, Any]) -> None:
        r"""Measure the untrained model, or the one with which a run goes on.

        Args:
            info: seconds and step are looked at.
        """
        if not self.looks:
            self._look(info)
        if get_ipython() is not None:
            self.live = LivePicture(png_bytes(self.picture()), "the surprise of a story, as it falls")
            display(self.live)
        if self._next_story <= info["seconds"]:
            self._tell(info)

    def on_step(self, info: dict[str, Any]) -> None:
        r"""Measure, draw and tell, each when its time has come.

        Args:
            info: seconds, step and progress are looked at.
        """
        last = info["progress"] >= 1
        if last or info["seconds"] >= self._next_look:
            self._look(info)
        if self.live is not None and info["seconds"] >= self._next_drawing:
            began = time.perf_counter()
            self.live.update(png_bytes(self.picture()))
            self._next_drawing = info["seconds"] + _pause(DRAW_EVERY, began)
        if last or info["seconds"] >= self._next_story:
            self._tell(info)

    def on_end(self, info: dict[str, Any]) -> None:
        r"""Replace the live picture by a lasting one.

        Args:
            info: not looked at.
        """
        if self.live is not None:
            self.live.close()
            self.live = None
        parts = "left the surprise of a story, right the part of it for words that had to be remembered"
        show(self.picture(), f"Two curves over the seconds of training: {parts}.")

    def picture(self) -> Figure:
        r"""Draw what has been measured so far.

        Returns: two panels over the seconds of training.
        """
        figure, (left, right) = new_figure(columns=2, width=9.2, height=3.1)
        seconds = [look["seconds"] for look in self.looks]
        floor, uniform = self.language.entropy(), self.uniform_nats()
        story = [look["story"] for look in self.looks]
        level = (floor, f"the floor, {floor:.1f}")
        line_chart(left, {"this model": (seconds, story)}, "A story costs it", "seconds of training", "nats", level)
        left.axhline(uniform, color=COLOURS[3], linewidth=1.2, linestyle=":", label=f"guessing blindly, {uniform:.0f}")
        left.set_yscale("log")
        left.set_yticks(TICKS, [str(tick) for tick in TICKS])
        left.minorticks_off()
        left.set_ylim(20, 1.25 * max(*story, uniform))
        remembered = [look["remembered"] for look in self.looks]
        title = "Of this, for words that it should remember"
        level = (0.0, "the floor, 0")
        line_chart(right, {"this model": (seconds, remembered)}, title, "seconds of training", "nats", level)
        name = f"remembering nothing, {self.forgetting:.1f}"
        right.axhline(self.forgetting, color=COLOURS[3], linewidth=1.2, linestyle=":", label=name)
        right.set_ylim(-1, 2.5 * self.forgetting)
        for axes in (left, right):
            axes.legend(fontsize=8, frameon=False, loc="upper right")
            axes.grid(axis="y", color=PALE, linewidth=0.6)
        return figure

    def uniform_nats(self) -> float:
        r"""What a story costs someone to whom all words are always equally likely.

        Returns: nats a story, on average over many.
        """
        rows = self.language.sample_batch(4096, torch.Generator().manual_seed(0))
        words_per_story = float((rows[:, 1:] != self.language.tokenizer.pad_id).sum()) / len(rows)
        return words_per_story * math.log(self.language.tokenizer.vocab_size)

    def _look(self, info: dict[str, Any]) -> None:
        began = time.perf_counter()
        parts = surprise_parts(self.model, self.language, self.rows, self.mask)
        self.looks.append({"seconds": info["seconds"], "step": info["step"], **parts})
        self._next_look = info["seconds"] + _pause(LOOK_EVERY, began)

    def _tell(self, info: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(info["step"])
        (story,) = sample_stories(self.model, self.language, 1, generator=generator)
        judged = "a story" if self.language.check(story).ok else "no story"
        print(f"after {info['seconds']:.0f} s ({info['step']} steps), {judged}:")
        print(textwrap.fill(story or "(nothing)", 100, initial_indent="  ", subsequent_indent="  "), flush=True)
        self._next_story = info["seconds"] + self.story_every


def _pause(wanted: float, began: float) -> float:
    r"""The seconds until something is done again that began at `began` and has just ended."""
    return max(wanted, min((time.perf_counter() - began) / SHARE, RAREST))
