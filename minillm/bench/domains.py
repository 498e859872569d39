r"""One general text, two special ones, and what training on the special ones does to a small model.

General is Python's documentation. Special are the stories of the course and sentences of everyday life; all three as
the same characters, so that one model can read them all, and its weights can be averaged with those of another.
"""

import copy
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.bench.variants import harness
from minillm.model.gpt import GPT
from minillm.text import mixture
from minillm.text.bilingual import bilingual_sentences
from minillm.text.characters import CharTokenizer
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import train_stories, validation_stories
from minillm.training.loop import train

GENERAL, STORIES, SENTENCES = "documentation", "stories", "sentences"
SEQ_LEN, BATCH_SIZE, N_WINDOWS = 64, 8, 96
GENERAL_RATE, SPECIAL_RATE = 6e-3, 3e-3  # whoever goes on with a trained model takes smaller steps


def as_ids(texts: Sequence[str]) -> Tensor:
    r"""Texts, one after the other, in the characters of the tables.

    Args:
        texts: of printable ASCII.
    Returns: (n,) int64.
    """
    return torch.tensor(CharTokenizer(harness.ALPHABET).encode("\n".join(texts) + "\n"))


@cache
def training_text(name: str, n_texts: int | None = None, seed: int = 0) -> Tensor:
    r"""A text to train on.

    Args:
        name: GENERAL, STORIES or SENTENCES.
        n_texts: how many stories or sentences; None = 200. Of the general text there is all.
        seed: which ones.
    Returns: (n,) int64; do not change it in place.
    Raises:
        ValueError: if there is no such text.
    """
    if name == GENERAL:
        return harness.text_ids("train")
    if name == STORIES:
        return as_ids(list(itertools.islice(train_stories(StoryLanguage(), seed), n_texts or 200)))
    if name == SENTENCES:
        return as_ids([english for english, _ in bilingual_sentences(n_texts or 200, random.Random(seed))])
    raise ValueError(f"name={name!r}: use {GENERAL!r}, {STORIES!r} or {SENTENCES!r}")


@cache
def unseen_windows(name: str) -> Tensor:
    r"""Windows of a text that nobody trained on.

    Args:
        name: GENERAL, STORIES or SENTENCES; of the last, the combinations of phrases are new, and not the phrases.
    Returns: (N_WINDOWS, SEQ_LEN + 1) int64; do not change them in place.
    """
    if name == GENERAL:
        return harness.text_windows("validation", SEQ_LEN, N_WINDOWS)
    if name == STORIES:
        token_ids = as_ids(validation_stories(StoryLanguage(), 64))
    else:
        known = {english for seed in range(10) for english, _ in bilingual_sentences(200, random.Random(seed))}
        drawn = [english for english, _ in bilingual_sentences(400, random.Random(-1))]
        token_ids = as_ids([english for english in drawn if english not in known])
    return side_by_side(token_ids)[:N_WINDOWS]


def cost_of(model: Callable[[Tensor], Tensor], name: str) -> float:
    r"""What a text costs a model.

    Args:
        model: token ids -> logits.
        name: GENERAL, STORIES or SENTENCES.
    Returns: nats a character, on unseen windows.
    """
    return cost_of_windows(model, unseen_windows(name))


def cost_of_windows(model: Callable[[Tensor], Tensor], windows: Tensor) -> float:
    r"""What windows of any text cost a model.

    Args:
        model: token ids -> logits.
        windows: (N, T + 1), token ids.
    Returns: nats a character.
    """
    with torch.inference_mode():
        return float(F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:]))


def side_by_side(token_ids: Tensor) -> Tensor:
    r"""A text cut into windows that lie side by side; what is left at its end is left out.

    Args:
        token_ids: (n,).
    Returns: (N, SEQ_LEN + 1).
    """
    return token_ids[: len(token_ids) // (SEQ_LEN + 1) * (SEQ_LEN + 1)].view(-1, SEQ_LEN + 1)


def costs_by_text(model: Callable[[Tensor], Tensor]) -> dict[str, float]:
    r"""What each of the three texts costs a model.

    Args:
        model: token ids -> logits.
    Returns: name -> nats a character, on unseen windows.
    """
    return {name: cost_of(model, name) for name in (GENERAL, STORIES, SENTENCES)}


def read_on(
    model: GPT,
    texts: Sequence[Tensor],
    shares: Sequence[float],
    seed: int,
    steps: int,
    learning_rate: float,
    batch_size: int = BATCH_SIZE,
    watch: Callable[[GPT], float] | None = None,
    watch_every: int = 0,
) -> tuple[GPT, list[float]]:
    r"""Train a copy of a model on one or several texts.

    Args:
        model: to begin with; it stays as it is.
        texts: token ids, (n,) each.
        shares: of the windows, from each text; sum 1.
        seed: of the windows.
        steps: of AdamW.
        learning_rate: the largest one.
        batch_size: windows a step.
        watch: measures the copy now and then; None = never.
        watch_every: steps between two measurements.
    Returns: the copy, in evaluation mode, and what was measured.
    """
    pupil, seen = copy.deepcopy(model), []
    generator = torch.Generator().manual_seed(seed)

    def windows() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield mixture.mixed_batch(texts, shares, SEQ_LEN, batch_size, generator)

    def look() -> Mapping[str, float]:
        seen.append(watch(pupil))
        return {"watched": seen[-1]}

    train(pupil, windows(), harness.small_recipe(steps, learning_rate), steps=steps, report_every=steps,
          evaluate=look if watch else None, evaluate_every=watch_every if watch else 0)
    return pupil, seen


def fresh_model(seed: int) -> GPT:
    r"""The small model of the tables before it has read anything.

    Args:
        seed: of its weights.
    Returns: the model, in evaluation mode.
    """
    return GPT(harness.BASE, torch.Generator().manual_seed(seed)).eval()


def train_general(seed: int, steps: int, batch_size: int = BATCH_SIZE) -> GPT:
    r"""A model of the general text.

    Args:
        seed: of weights and windows.
        steps: of training.
        batch_size: windows a step.
    Returns: the model, in evaluation mode.
    """
    model, _ = read_on(fresh_model(seed), [training_text(GENERAL)], [1.0], seed, steps, GENERAL_RATE, batch_size)
    return model


def specialise(
    model: GPT, name: str, seed: int, steps: int, replay: float = 0.0, n_texts: int | None = None, **more: Any
) -> GPT:
    r"""Go on training a model, on a special text.

    Args:
        model: to begin with; it stays as it is.
        name: STORIES or SENTENCES.
        seed: of the special text and of the windows.
        steps: of training.
        replay: the share of windows that come from the general text.
        n_texts: stories or sentences there are; None = 200.
        more: learning_rate (SPECIAL_RATE) and batch_size, as for `read_on`.
    Returns: a new model, in evaluation mode.
    """
    texts = [training_text(name, n_texts, seed), training_text(GENERAL)]
    options = {"learning_rate": SPECIAL_RATE} | more
    return read_on(model, texts, [1 - replay, replay], seed, steps, **options)[0]


def averaged(first: GPT, second: GPT, share: float = 0.5) -> GPT:
    r"""A model whose weights lie on the straight line between those of two others.

    Args:
        first: the model at share 0.
        second: the model at share 1; of the same configuration.
        share: where on the line.
    Returns: a new model, in evaluation mode.
    Raises:
        ValueError: if the two are of different shape.
    Source: Wortsman et al. 2022, Model soups, section 2 (with share 1/2: a uniform soup of two).
    """
    if first.config != second.config:
        raise ValueError(f"second.config={second.config} differs from first.config={first.config}: weights can only be "
                         "averaged between models of the same shape")
    mean = copy.deepcopy(first)
    ends = first.state_dict(), second.state_dict()
    mean.load_state_dict({name: torch.lerp(ends[0][name], ends[1][name], share) for name in ends[0]})
    return mean.eval()


def together(first: GPT, second: GPT) -> Callable[[Tensor], Tensor]:
    r"""Two models that are both asked, and whose probabilities are averaged.

    Args:
        first: token ids -> logits.
        second: the same, over the same vocabulary.
    Returns: token ids -> log-probabilities; twice the work of one model.
    """
    return lambda token_ids: torch.logaddexp(
        first(token_ids).log_softmax(-1), second(token_ids).log_softmax(-1)) - torch.tensor(2.0).log()
