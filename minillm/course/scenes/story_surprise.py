r"""A story word by word: how surprising each word is to someone who knows the language perfectly, and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from minillm.text import batches
from minillm.text.stories import StoryLanguage
from minillm.text.stories.parser import Reading, expected_words, parse_words
from minillm.text.words import EOS, join_words, split_words

NO_WORD = ""  # a word that no reading allows: parsing stops before it and shows what was still possible
# A sentence may begin with the hero or without: even who remembers the name cannot know that it comes now.
LEFT_OUT = ("hero", "he")
ARTICLE = "a_"  # these slots hold "a" or "an", which tells nothing: "an" may be followed by "old" or by "owl"


@dataclass(frozen=True)
class WordSurprise:
    r"""A word of a story.

    Args:
        word: the word or mark.
        nats: -log of its probability, given the words before it.
        remembered: whether the story so far has fixed it ("her" after "Mia"), so that who remembers is not surprised.
    """

    word: str
    nats: float
    remembered: bool


def next_word_probs(language: StoryLanguage, beginning: str) -> dict[str, float]:
    r"""Compute from the grammar alone what may come next, and how likely it is.

    The probability of a word is that of all stories which begin so, with the word, divided by that of all which begin
    so without it.

    Args:
        language: the story language.
        beginning: the words so far; "" at the start.
    Returns: the words that may come, the likeliest first; the end token after a whole story.
    Raises:
        ValueError: if no story begins so.
    """
    words = split_words(beginning)
    parse = parse_words(language.grammar, [*words, NO_WORD])
    if parse.stopped_at != len(words):
        raise ValueError(f"beginning must be that of a story, but {language.check(beginning).why}")
    masses: dict[str, float] = {}
    for reading in parse.alive:
        options = sorted(expected_words(language.grammar, reading)) or [EOS]
        for word in options:
            masses[word] = masses.get(word, 0.0) + _slot_share(language, reading, word) * math.exp(reading.log_prob)
    total = math.fsum(masses.values())
    return {word: mass / total for word, mass in sorted(masses.items(), key=lambda entry: -entry[1])}


def word_surprises(language: StoryLanguage, story: str) -> list[WordSurprise]:
    r"""Compute the surprise of each word from the grammar's own probabilities.

    The surprises of a story add up to -log_prob(story).

    Args:
        language: the story language.
        story: a story of it.
    Returns: an entry a word or mark.
    Raises:
        ValueError: if the text is not a story.
    """
    words = split_words(story)
    settled = [slot != "" for slot in _settled_slots(language, story)]
    probs = [next_word_probs(language, join_words(words[:i]))[word] for i, word in enumerate(words)]
    nats = [abs(math.log(prob)) if prob < 1 - 1e-9 else 0.0 for prob in probs]
    return [WordSurprise(word, n, known and n == 0) for word, n, known in zip(words, nats, settled, strict=True)]


def remembered_words(language: StoryLanguage, story: str) -> list[bool]:
    r"""Find words that nothing but memory can tell: their surprise is 0, and a model that forgets pays for them.

    Much faster than `word_surprises`, because it does not look at what else could have come; so it leaves out the words
    of which some are a surprise (`LEFT_OUT`).

    Args:
        language: the story language.
        story: a story of it.
    Returns: a truth value a word or mark.
    Raises:
        ValueError: if the text is not a story.
    """
    return [slot != "" and slot not in LEFT_OUT for slot in _settled_slots(language, story)]


def remembered_mask(language: StoryLanguage, rows: Int[Tensor, "n max_len"]) -> Bool[Tensor, "n max_len"]:
    r"""Mark the remembered words in stories that are given as token ids.

    Args:
        language: the story language.
        rows: begin, words, end, padding; one story a row.
    Returns: True at the remembered words.
    """
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    for line, row in zip(mask, rows.tolist(), strict=True):
        flags = remembered_words(language, language.tokenizer.decode(row))
        line[1 : 1 + len(flags)] = torch.tensor(flags)
    return mask


def price_of_forgetting(language: StoryLanguage, stories: Sequence[str]) -> float:
    r"""What the remembered words cost someone who knows the language but remembers nothing of the story.

    At each of them all rows of the fact are equally likely to him: "woof" is one of six sounds, and costs ln 6.

    Args:
        language: the story language.
        stories: stories of it.
    Returns: nats a story, on average.
    Raises:
        ValueError: if a text is not a story.
    """
    nats = 0.0
    for story in stories:
        slots = language.parse(story).derivations[0].slots
        for word, slot, counted in zip(split_words(story), slots, remembered_words(language, story), strict=True):
            if counted:
                column = [row[slot] for rows in language.grammar.facts.values() if slot in rows[0] for row in rows]
                nats += math.log(len(column) / column.count(word))
    return nats / len(stories)


def surprise_parts(
    model: Any, language: StoryLanguage, rows: Int[Tensor, "n max_len"], remembered: Bool[Tensor, "n max_len"]
) -> dict[str, float]:
    r"""Measure what a model pays for stories, and how much of it for words that it should have remembered.

    Args:
        model: token ids -> logits.
        language: the story language.
        rows: begin, words, end, padding; one story a row.
        remembered: from `remembered_mask`.
    Returns: "story", the mean surprise of a story in nats, and "remembered", the part of it that memory would save.
    """
    token_ids, targets = batches.shift_rows(rows, language.tokenizer.pad_id)
    with torch.no_grad():
        logits = model(token_ids).float()
    nats = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=batches.IGNORED, reduction="none")
    return {"story": float(nats.sum()) / len(rows), "remembered": float(nats[remembered[:, 1:]].sum()) / len(rows)}


def _settled_slots(language: StoryLanguage, story: str) -> list[str]:
    r"""For each word the slot that it fills, if the words before have settled what must stand there; else ""."""
    language.facts(story)  # refuses what is not a story
    slots = language.parse(story).derivations[0].slots
    said: dict[str, str] = {}
    settled = []
    for word, slot in zip(split_words(story), slots, strict=True):
        rows = next((rows for rows in language.grammar.facts.values() if slot in rows[0]), ())
        known = [other for other in (rows[0] if rows else ()) if other in said]
        possible = {row[slot] for row in rows if all(row[other] == said[other] for other in known)}
        settled.append(slot if known and len(possible) == 1 else "")
        if slot and not slot.startswith(ARTICLE):
            said[slot] = word
    return settled


def _slot_share(language: StoryLanguage, reading: Reading, word: str) -> float:
    r"""How likely a reading makes a word that it allows: 1, unless it opens a fact of several rows."""
    symbol = reading.rest[0] if reading.rest else ""
    slot = symbol.strip("{}")
    if not symbol.startswith("{") or slot in reading.words:
        return 1.0
    rows = next(rows for rows in language.grammar.facts.values() if slot in rows[0])
    return sum(row[slot] == word for row in rows) / len(rows)
