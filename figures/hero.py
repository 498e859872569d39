r"""Draw figures/hero.png, the README's picture: a model on its way from noise to stories.

It trains the tiny GPT for 500 steps, with a fixed seed, and lets it tell a story at four moments.
"""

import io
import math
import re
from itertools import count
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from minillm.config import preset
from minillm.course.plots import COLOURS, INK, PALE
from minillm.course.scenes.story_pictures import set_in_lines, write_words
from minillm.inference.evaluate import sample_stories, story_nats
from minillm.model.gpt import GPT
from minillm.text.batches import story_batch
from minillm.text.stories import StoryLanguage
from minillm.text.words import split_words
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from minillm.training.threads import use_fastest_threads

TARGET = Path(__file__).with_suffix(".png")
SEED, STORY_SEED, STEPS, BATCH_SIZE = 0, 3, 500, 32
MOMENTS = (0, 40, 150, STEPS)  # steps after which it tells a story
MEASURED = 10  # steps from one point of the curve to the next
LETTERS, LINES, DOTS_PER_INCH, SHADES = 74, 4, 144, 256


class Diary:
    r"""A callback that measures the model every few steps, and writes down a story at each of the moments."""

    def __init__(self, model: GPT, language: StoryLanguage) -> None:
        self.model, self.language = model, language
        self.nats: dict[int, float] = {}
        self.stories: dict[int, str] = {}

    def on_start(self, info: dict[str, Any]) -> None:
        self.on_step(info)

    def on_step(self, info: dict[str, Any]) -> None:
        step = info["step"]
        if step % MEASURED == 0:
            self.nats[step] = story_nats(self.model, self.language, n_stories=64)
        if step in MOMENTS:
            generator = torch.Generator().manual_seed(STORY_SEED)
            (story,) = sample_stories(self.model, self.language, 1, generator=generator)
            self.stories[step] = re.sub(r"<(pad|bos)> ?", "", story)  # marks of begin and end are not shown


def trained_diary(language: StoryLanguage) -> Diary:
    r"""Train a model and give what was written down on the way."""
    generator = torch.Generator().manual_seed(SEED)
    model = GPT(preset("tiny", max_seq_len=language.max_len), generator)
    diary = Diary(model, language)
    batches = (story_batch(language, BATCH_SIZE, generator) for _ in count())
    train(model, batches, Recipe(learning_rate=2e-3, dtype="fp32"), steps=STEPS, callbacks=[diary])
    return diary


def draw_hero(diary: Diary, language: StoryLanguage) -> Figure:
    r"""The curve on the left, the stories on the right, tied together by numbers."""
    figure = Figure(figsize=(10, 4.1), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.055, 0.125, 0.36, 0.80))
    stories_read = [step * BATCH_SIZE for step in diary.nats]
    axes.plot(stories_read, list(diary.nats.values()), color=COLOURS[0], linewidth=2.2)
    floor, middle = language.entropy(), 0.5 * STEPS * BATCH_SIZE
    axes.axhline(floor, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    note = "the entropy of the language: nobody can do better"
    axes.text(middle, 0.97 * floor, note, fontsize=8, va="top", ha="center", color=INK)
    axes.set(yscale="log", xlim=(-400, STEPS * BATCH_SIZE + 600), ylim=(18, 700))
    axes.set_yticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
    axes.minorticks_off()
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.set_xlabel("stories read", fontsize=9, color=INK)
    axes.set_title("How surprised a tiny GPT is by a new story (nats)", fontsize=9.5, color=INK, loc="left")
    for number, step in enumerate(MOMENTS):
        look = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": COLOURS[0]}
        at = (step * BATCH_SIZE, diary.nats[step])
        axes.text(*at, str(number + 1), fontsize=8.5, ha="center", va="center", bbox=look, color=INK)
        _write_story(figure, number, step, diary.stories[step], language)
    return figure


def _write_story(figure: Figure, number: int, step: int, story: str, language: StoryLanguage) -> None:
    panel = figure.add_axes((0.455, 0.755 - 0.235 * number, 0.54, 0.17))
    verdict, words = language.check(story), split_words(story)
    places = set_in_lines(words, LETTERS)
    words = [word for word, (line, _) in zip(words, places, strict=True) if line < LINES]
    wrong = verdict.where if verdict.where is not None else len(words)
    inks = [INK if i < wrong else COLOURS[3] if i == wrong else "#8A8A8A" for i in range(len(words))]
    write_words(panel, words, inks, LETTERS, 8.4, [i == wrong for i in range(len(words))])
    panel.set_ylim(LINES, 0)
    judged = "a story" if verdict.ok else f"no story, from word {wrong + 1} on"
    title = f"{number + 1}   after {step * BATCH_SIZE:,} stories. The checker: {judged}"
    panel.set_title(title, fontsize=9.5, color=INK, loc="left", weight="bold")


def main() -> None:
    r"""Train, draw, and write a small file."""
    use_fastest_threads()
    language = StoryLanguage()
    buffer = io.BytesIO()
    draw_hero(trained_diary(language), language).savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(SHADES).save(TARGET, optimize=True)
    print(f"{TARGET.name}: {math.ceil(TARGET.stat().st_size / 1024)} KB")


if __name__ == "__main__":
    main()
