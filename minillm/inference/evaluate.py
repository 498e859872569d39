r"""How good is a model? The surprise that a text is to it, and, for stories, how many of its own are stories."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minillm.inference import long_text
from minillm.inference.generate import generate
from minillm.layers import loss
from minillm.text import batches
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import validation_rows


def perplexity(logits: Float[Tensor, "*b T V"], targets: Int[Tensor, "*b T"]) -> float:
    r"""Among how many equally likely tokens the model might as well be choosing.

    All counted tokens of a batch, of whichever text, make one mean.

    Args:
        logits: (*b, T, V), float of any precision, taken as float32; those at place t are about the target at place t.
        targets: (*b, T), int64; -100 = not counted.
    Returns: at least 1.
    Raises:
        ValueError: if no target is counted.
    Source: Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks.
    Lesson: 16.
    """
    if bool((targets == loss.IGNORED).all()):
        raise ValueError(f"targets {tuple(targets.shape)}: all are {loss.IGNORED}; at least one has to be counted")
    return math.exp(loss.cross_entropy(logits.float(), targets))


def bits_per_byte(nats: Float[Tensor, "N"], text: str) -> float:
    r"""The size to which the model could compress a text, in bits for each byte of its UTF-8.

    Unlike perplexity it can be compared between models with different tokenizers.

    Args:
        nats: (N,), float: the surprise of each of the text's tokens.
        text: the same text.
    Returns: bits per byte; 8 is no compression.
    Raises:
        ValueError: if the text is empty.
    Source: Gao et al. 2020, The Pile, section 3.1.
    Lesson: 16.
    """
    n_bytes = len(text.encode("utf-8"))
    if n_bytes == 0:
        raise ValueError("text is empty, so it has no bits per byte; give at least one character")
    return float(nats.double().sum()) / math.log(2) / n_bytes


def batch_nats(
    model: Any, token_ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], batch_size: int = 64
) -> tuple[float, int]:
    r"""The summed surprise at all counted targets, and how many there are.

    Args:
        model: token ids -> logits, in evaluation mode.
        token_ids: (B, T), int64.
        targets: (B, T), int64; -100 = not counted.
        batch_size: rows that go through the model at once.
    Returns: nats, and a count.
    Lesson: 07.
    """
    nats = 0.0
    with torch.inference_mode():
        for rows, row_targets in zip(token_ids.split(batch_size), targets.split(batch_size), strict=True):
            logits = model(rows).float()
            nats += float(F.cross_entropy(logits.flatten(0, 1), row_targets.flatten(), ignore_index=loss.IGNORED,
                                          reduction="sum"))
    return nats, int((targets != loss.IGNORED).sum())


def text_token_nats(model: Any, token_ids: Sequence[int], window: int, batch_size: int = 16) -> Float[Tensor, "N"]:
    r"""The surprise of each token of a text of any length, to a model that sees at most `window` tokens at once.

    Windows overlap by half, see `long_text.sliding_nats`, so that all but the first few have at least half a window
    before them. The very first token has nothing before it: it is charged log(vocab_size), as a model that knows
    nothing would pay.

    Args:
        model: with `config.vocab_size`, in evaluation mode.
        token_ids: the text, N tokens, at least one.
        window: tokens a window, at least 2 and at most the model's max_seq_len.
        batch_size: windows that go through the model at once.
    Returns: (N,), float32, on the CPU: nats.
    Raises:
        ValueError: if there is no token, or the window does not fit the model.
    Source: as `long_text.sliding_windows`.
    Lesson: 16.
    """
    if len(token_ids) == 0:
        raise ValueError("token_ids is empty: give a text of at least one token")
    if not 2 <= window <= model.config.max_seq_len:
        raise ValueError(f"window={window}: use 2 to max_seq_len={model.config.max_seq_len}")
    first = torch.tensor([math.log(model.config.vocab_size)])
    if len(token_ids) == 1:
        return first
    return torch.cat([first, long_text.sliding_nats(model, torch.tensor(token_ids), window, window // 2, batch_size)])


def text_nats(model: Any, token_ids: Sequence[int], window: int, batch_size: int = 16) -> float:
    r"""The surprise of a whole text: the sum of `text_token_nats`.

    Args:
        model: as in `text_token_nats`.
        token_ids: as in `text_token_nats`.
        window: as in `text_token_nats`.
        batch_size: as in `text_token_nats`.
    Returns: nats.
    Lesson: 16.
    """
    return float(text_token_nats(model, token_ids, window, batch_size).double().sum())


@dataclass(frozen=True, kw_only=True)
class StoryReport:
    r"""How well a model knows the story language.

    Args:
        nats_per_story: on validation stories; below the floor only by chance.
        floor_nats_per_story: the entropy of the language.
        over_floor: the first divided by the second, minus 1.
        valid_fraction: share of the model's own stories, told at temperature 1, that the checker accepts.
        n_stories: validation stories measured on.
        n_samples: stories told.
    Lesson: 07.
    """

    nats_per_story: float
    floor_nats_per_story: float
    over_floor: float
    valid_fraction: float
    n_stories: int
    n_samples: int


def story_nats(model: Any, language: StoryLanguage, n_stories: int = 4096, seed: int = 0) -> float:
    r"""The mean surprise that a validation story is to the model, its end included.

    Args:
        model: in evaluation mode; its tokens are the language's.
        language: the story language.
        n_stories: how many validation stories.
        seed: which.
    Returns: nats a story.
    Lesson: 01.
    """
    rows = validation_rows(language, n_stories, seed).to(next(model.parameters()).device)
    nats, _ = batch_nats(model, *batches.shift_rows(rows, language.tokenizer.pad_id))
    return nats / n_stories


def sample_stories(
    model: Any,
    language: StoryLanguage,
    n_samples: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    r"""Let the model tell stories from nothing.

    Args:
        model: in evaluation mode; its tokens are the language's.
        language: the story language.
        n_samples: how many.
        temperature: 0.0 = greedy.
        generator: source of randomness, on the model's device; None means torch's global one.
    Returns: texts; a story that did not come to an end in `language.max_len` tokens is cut there.
    Lesson: 09.
    """
    tokenizer = language.tokenizer
    device = next(model.parameters()).device
    begin = torch.full((n_samples, 1), tokenizer.bos_id, device=device)
    # The end token is the last that may come; it needs no position of its own.
    told = generate(model, begin, language.max_len - 1, temperature=temperature, generator=generator,
                    stop_ids=[tokenizer.eos_id], pad_id=tokenizer.eos_id)
    return [tokenizer.decode(row) for row in told.tolist()]


def story_report(
    model: Any,
    language: StoryLanguage,
    *,
    n_stories: int = 4096,
    n_samples: int = 400,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> StoryReport:
    r"""Measure a story model against the floor, and let the checker judge what it tells.

    Args:
        model: in evaluation mode; its tokens are the language's.
        language: the story language.
        n_stories: validation stories to measure on.
        n_samples: stories to let it tell.
        seed: of the validation stories.
        generator: source of randomness for the told ones, on the model's device.
    Returns: the report.
    Lesson: 07.
    """
    nats, floor = story_nats(model, language, n_stories, seed), language.entropy()
    told = sample_stories(model, language, n_samples, generator=generator)
    valid = sum(language.check(story).ok for story in told)
    return StoryReport(nats_per_story=nats, floor_nats_per_story=floor, over_floor=nats / floor - 1,
                       valid_fraction=valid / n_samples, n_stories=n_stories, n_samples=n_samples)
