r"""Talk to a story model: give it a beginning, and see what it says next and how sure it is."""

import textwrap
from typing import Any

import torch
from ipywidgets import FloatSlider, IntSlider, Text
from matplotlib.figure import Figure

from minillm.course.plots import COLOURS, INK, new_figure
from minillm.course.scenes.story_pictures import next_word_panel, write_words
from minillm.course.scenes.story_surprise import next_word_probs
from minillm.course.widgets import Explorer
from minillm.inference import sampling
from minillm.inference.generate import generate
from minillm.layers import softmax
from minillm.text.stories import StoryLanguage
from minillm.text.words import split_words

COLUMNS = 44  # letters a line of the story in the picture
EMPTY = "(the beginning of a story)"


def prompt_ids(language: StoryLanguage, beginning: str) -> torch.Tensor:
    r"""Turn a beginning into what the model is fed.

    Args:
        language: the story language.
        beginning: its first words; "" starts from nothing.
    Returns: (1, T), int64: the begin token, then the words.
    Raises:
        ValueError: if a word is not of the language, or the beginning leaves no room for another word.
    """
    token_ids = [language.tokenizer.bos_id, *language.tokenizer.encode(beginning)]
    if len(token_ids) >= language.max_len:
        raise ValueError(f"beginning has {len(token_ids) - 1} words; a story has at most {language.max_len - 2}")
    return torch.tensor([token_ids])


def tell_on(
    model: Any, language: StoryLanguage, beginning: str, temperature: float = 1.0, seed: int = 0
) -> str:
    r"""Let the model go on with a story.

    Args:
        model: trained on the language.
        language: the story language.
        beginning: its first words; "" lets it begin.
        temperature: 0.0 = always the likeliest word; 1.0 = as it learned; above = bolder.
        seed: another seed is another story.
    Returns: the whole text, the beginning included.
    Raises:
        ValueError: if a word of the beginning is not one of the language.
    """
    tokenizer, prompt = language.tokenizer, prompt_ids(language, beginning)
    told = generate(
        model, prompt, language.max_len - prompt.shape[1], temperature=temperature, stop_ids=[tokenizer.eos_id],
        pad_id=tokenizer.eos_id, generator=torch.Generator().manual_seed(seed))  # fmt: skip
    return tokenizer.decode(told[0].tolist())


def model_next_probs(
    model: Any, language: StoryLanguage, beginning: str, temperature: float = 1.0
) -> dict[str, float]:
    r"""Ask a model for the probability of every next word.

    Args:
        model: trained on the language.
        language: the story language.
        beginning: the words so far.
        temperature: above 0; the logits are divided by it.
    Returns: a probability for each word of the vocabulary.
    Raises:
        ValueError: if a word of the beginning is not one of the language.
    """
    with torch.inference_mode():
        logits = model(prompt_ids(language, beginning))[0, -1].float()
        probs = softmax.softmax(sampling.apply_temperature(logits, temperature))
    return dict(zip(language.vocabulary, probs.tolist(), strict=True))


def talk_picture(
    model: Any, language: StoryLanguage, beginning: str, temperature: float = 1.0, seed: int = 0
) -> Figure:
    r"""Draw what the model says after a beginning: the bars of its next word, and a story told to the end.

    Args:
        model: trained on the language.
        language: the story language.
        beginning: its first words.
        temperature: above 0.
        seed: of the story told.
    Returns: the picture; if the beginning has a word that the language has not, the picture says so.
    """
    figure, (left, right) = new_figure(columns=2, width=9.6, height=3.6)
    try:
        probs = model_next_probs(model, language, beginning, temperature)
        story = tell_on(model, language, beginning, temperature, seed)
    except ValueError as error:
        right.set_axis_off()
        _write(left, [], 0, None, "Please change the beginning", str(error))
        return figure
    try:
        truth = next_word_probs(language, beginning)
    except ValueError:  # the words are right, but no story begins so
        truth = None
    verdict = language.check(story)
    title = "A story, says the checker" if verdict.ok else "No story, says the checker"
    _write(left, split_words(story), len(split_words(beginning)), verdict.where, title, verdict.why)
    next_word_panel(right, probs, truth)
    right.set_title(f"The next word, at temperature {temperature:g}", fontsize=10, color=INK, loc="left")
    return figure


def talk_widget(model: Any, language: StoryLanguage, beginning: str = "") -> Explorer:
    r"""Controls for `talk_picture`: the beginning, the temperature, and which telling.

    Args:
        model: trained on the language.
        language: the story language.
        beginning: to start with.
    Returns: the widget, with a picture where none can run.
    """
    wide = {"description_width": "110px"}
    return Explorer(
        lambda beginning, temperature, telling: talk_picture(model, language, beginning, temperature, telling),
        alt=f'After "{beginning or EMPTY}": a story that the model tells on, and the probabilities of its next word '
        "as bars, beside those of the language itself.",
        beginning=Text(beginning, description="beginning", continuous_update=False, style=wide),
        temperature=FloatSlider(1.0, min=0.1, max=3.0, step=0.1, description="temperature",
                                continuous_update=False, style=wide),
        telling=IntSlider(1, min=1, max=30, description="telling", continuous_update=False, style=wide),
    )  # fmt: skip


def _write(axes: Any, words: list[str], n_given: int, wrong: int | None, title: str, note: str) -> None:
    inks = [INK] * n_given + [COLOURS[0]] * (len(words) - n_given)
    if wrong is not None and wrong < len(words):
        inks[wrong] = COLOURS[3]
    write_words(axes, words, inks, COLUMNS, 10.5, [i < n_given or i == wrong for i in range(len(words))])
    axes.set_ylim(10.5, 0)
    at = (0, 0.6 if not words else 9.0)
    axes.text(*at, textwrap.fill(note, 64), ha="left", va="top", fontsize=9, color=COLOURS[3])
    axes.set_title(title, fontsize=10, color=INK, loc="left")
