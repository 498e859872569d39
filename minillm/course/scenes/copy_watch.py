r"""Watch a story model learn to copy: what remembered words cost it, and how well a head finds them."""

from typing import Any

import torch
from IPython.core.getipython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import COLOURS, PALE, line_chart, new_figure, png_bytes, show
from minillm.course.scenes.story_surprise import remembered_mask, surprise_parts
from minillm.course.widgets import LivePicture
from minillm.layers.recorder import record
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import validation_rows


def finding_weights(model: Any, rows: Tensor, remembered: Tensor) -> Tensor:
    r"""How much attention each head pays, for each word that is about to be said again, to its earlier places.

    Args:
        model: token ids -> logits.
        rows: (n, T), int64: texts.
        remembered: (n, T), bool: words that are to be copied from earlier in the text.
    Returns: (words, L, H), for the remembered words that stand in the text before, row by row: the weight that the
        query just before the word gives to all its earlier places together.
    """
    with record() as tape, torch.no_grad():
        model(rows[:, :-1])
    same = rows[:, 1:, None] == rows[:, None, :-1]  # (n, T-1, T-1): does key j hold the word that comes after query i?
    same &= torch.ones_like(same[0]).tril()
    asked = remembered[:, 1:] & same.any(-1)
    found = [(weights * same[:, None]).sum(-1) for weights in tape["attn_weights"]]  # (n, H, T-1), a tensor a layer
    return torch.stack([layer.transpose(1, 2)[asked] for layer in found], dim=1)


DRAW_EVERY = 1.0  # seconds; drawing takes time from training
ALT = (
    "Two panels over the steps of training. Left: what a story costs, for words that are a choice and for words to be "
    "remembered. Right: the attention that the word to be copied gets."
)


class CopyWatch:
    r"""A callback for training: measures, every few steps, how far the model has learned to copy, and draws it live.

    `looks` holds what was measured: dictionaries with "step", "story" and "remembered" (nats a story), and "finding",
    the weight on the word that is to be copied, of the head that is best at that word, on average.

    Args:
        model: the one that is trained.
        language: the story language.
        every: steps from one look to the next.
        n_stories: validation stories that are looked at.
    """

    def __init__(self, model: Any, language: StoryLanguage, every: int = 10, n_stories: int = 48) -> None:
        self.model, self.language, self.every = model, language, every
        self.rows = validation_rows(language, n_stories, seed=0)
        self.remembered = remembered_mask(language, self.rows)
        self.looks: list[dict[str, float]] = []
        self.live: LivePicture | None = None
        self._drawn_at = 0.0

    def on_start(self, info: dict[str, Any]) -> None:
        r"""Look at the untrained model.

        Args:
            info: step is looked at.
        """
        self._look(info["step"])
        if get_ipython() is not None:
            self.live = LivePicture(png_bytes(self.picture()), ALT)
            display(self.live)

    def on_step(self, info: dict[str, Any]) -> None:
        r"""Look, if it is time, and at the last step; draw, if the last drawing is some time ago.

        Args:
            info: step, progress and seconds are looked at.
        """
        if info["step"] % self.every == 0 or info["progress"] >= 1:
            self._look(info["step"])
            if self.live is not None and info["seconds"] - self._drawn_at >= DRAW_EVERY:
                self.live.update(png_bytes(self.picture()))
                self._drawn_at = info["seconds"]

    def on_end(self, info: dict[str, Any]) -> None:
        r"""Replace the live picture by a lasting one.

        Args:
            info: not looked at.
        """
        if self.live is not None:
            self.live.close()
            self.live = None
        show(self.picture(), ALT)

    def curve(self, name: str) -> list[float]:
        r"""What was measured under a name, from the first look to the last.

        Args:
            name: such as "remembered".
        Returns: a number a look.
        """
        return [look[name] for look in self.looks]

    def picture(self) -> Figure:
        r"""Draw what was measured over the steps of training.

        Returns: two panels: what words cost, and how well the best head finds them.
        """
        figure, (left, right) = new_figure(columns=2, width=9.2, height=3.3)
        steps, remembered = self.curve("step"), self.curve("remembered")
        other = [story - part for story, part in zip(self.curve("story"), remembered, strict=True)]
        floor = self.language.entropy()
        parts = {"words that are a choice": (steps, other), "words to be remembered": (steps, remembered)}
        line_chart(left, parts, "What a story costs the model", "steps", "nats", (floor, f"the floor, {floor:.1f}"))
        left.set_ylim(-2, 80)  # the first looks, in the hundreds, would press the rest flat
        title = "Attention to the word that is to be copied"
        line_chart(right, {"best head for each word": (steps, self.curve("finding"))}, title, "steps", "weight")
        right.lines[0].set_color(COLOURS[2])
        right.set_ylim(0, 1)
        for axes in (left, right):
            axes.grid(axis="y", color=PALE, linewidth=0.6)
        return figure

    def _look(self, step: int) -> None:
        parts = surprise_parts(self.model, self.language, self.rows, self.remembered)
        finding = float(finding_weights(self.model, self.rows, self.remembered).flatten(1).amax(1).mean())
        self.looks.append({"step": step, **parts, "finding": finding})
