r"""Training and validation stories that can never meet, whatever the seeds.

Which side a story is on is decided by the story itself: a fixed hash of its token ids puts one story in 64 on the
validation side. Both streams draw from the same language and drop what is on the other side.

What this does to the entropy floor. Let p be the language and s = P(validation side), about 1/64. The hash does not
know p, so the mean of -log p(story) over validation stories differs from the entropy H only by chance, with standard
deviation sd(-log p) * sqrt(sum of p^2 / s): about 1e-4 nats here. Training stories follow p / (1 - s), which a model
could only tell from p by learning the hash by heart; if it did it would gain log(1 / (1 - s)) = 0.016 nats in
training (0.07 % of H) and lose everything in validation. A model that learns the language is judged against H.
"""

import random
from collections.abc import Iterator
from functools import cache

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from minillm.text.stories.language import StoryLanguage

VALIDATION_SHARE = 64  # one story in so many


@cache
def _place_weights(max_len: int) -> Tensor:
    rng = random.Random(20170612)  # fixed for ever: another seed would be another split
    return torch.tensor([rng.randrange(-(2**63), 2**63) for _ in range(max_len)])


def story_side(token_ids: Int64[Tensor, "n max_len"]) -> Bool[Tensor, " n"]:
    r"""Say which stories are validation stories.

    The hash is the sum of id times a fixed random 64-bit number for its place, modulo 2^64; the six highest bits
    decide. Padding is id 0 and adds nothing, so the length of the row does not matter.

    Args:
        token_ids: one story a row, as `StoryLanguage.sample_batch` gives them.
    Returns: True for a validation story.
    Source: Dietzfelbinger 1996, Universal hashing and k-wise independent random variables via integer arithmetic
        without primes (multiply-add with the high bits kept).
    Lesson: 01.
    """
    return ((token_ids * _place_weights(token_ids.shape[1])).sum(1) >> 58) & (VALIDATION_SHARE - 1) == 0


def is_validation(language: StoryLanguage, text: str) -> bool:
    r"""Say whether a story is a validation story.

    Args:
        language: the story language.
        text: a story.
    Returns: True for a validation story.
    Lesson: 01.
    """
    tokenizer = language.tokenizer
    return bool(story_side(torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]])))


def _one_side(language: StoryLanguage, n: int, generator: torch.Generator, side: bool) -> Int64[Tensor, "n max_len"]:
    token_ids = language.sample_batch(n, generator)
    while len(wrong := (story_side(token_ids) != side).nonzero()[:, 0]):
        token_ids[wrong] = language.sample_batch(len(wrong), generator)
    return token_ids


def train_rows(language: StoryLanguage, n: int, generator: torch.Generator) -> Int64[Tensor, "n max_len"]:
    r"""Draw n training stories as token ids: begin, words, end, padding.

    Args:
        language: the story language.
        n: how many.
        generator: the source of chance; it is advanced.
    Returns: token ids, int64.
    Lesson: 01.
    """
    return _one_side(language, n, generator, side=False)


def validation_rows(language: StoryLanguage, n: int, seed: int = 0) -> Int64[Tensor, "n max_len"]:
    r"""Draw n validation stories as token ids: begin, words, end, padding.

    Args:
        language: the story language.
        n: how many.
        seed: the same seed gives the same stories, and a larger n of the same seed need not begin with them.
    Returns: token ids, int64.
    Lesson: 01.
    """
    return _one_side(language, n, torch.Generator().manual_seed(seed), side=True)


def train_stories(language: StoryLanguage, seed: int) -> Iterator[str]:
    r"""Tell training stories without end.

    Args:
        language: the story language.
        seed: the same seed gives the same stories.
    Returns: an iterator of texts.
    Lesson: 01.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        for row in train_rows(language, 256, generator).tolist():
            yield language.tokenizer.decode(row)


def validation_stories(language: StoryLanguage, n: int, seed: int = 0) -> list[str]:
    r"""Tell n validation stories; none of them is ever a training story.

    Args:
        language: the story language.
        n: how many.
        seed: the same seed gives the same stories.
    Returns: the texts.
    Lesson: 01.
    """
    return [language.tokenizer.decode(row) for row in validation_rows(language, n, seed).tolist()]
