r"""Surprises, remembered words and next words, held against the grammar's own numbers and against each other."""

import math
import random

import pytest
import torch

from minillm.course.scenes import story_surprise
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import validation_rows
from minillm.text.words import split_words

LANGUAGE = StoryLanguage()
STORY = (
    "Zoe and her cat Dot loved a red umbrella. One day a goose took the umbrella to the bakery. There a troll was "
    "hugging it. Dot said meow, and the troll fell asleep. Now Zoe keeps her red umbrella far from the bakery."
)


def stories(seed: int, n_stories: int) -> list[str]:
    rng = random.Random(seed)
    return [LANGUAGE.sample(rng) for _ in range(n_stories)]


def test_surprises_add_up_to_the_log_probability(fresh_seed: int):
    for story in stories(fresh_seed, 20):
        told = story_surprise.word_surprises(LANGUAGE, story)
        assert [word.word for word in told] == split_words(story)
        assert sum(word.nats for word in told) == pytest.approx(-LANGUAGE.log_prob(story), abs=1e-9)
        assert all(word.nats == 0 for word in told if word.remembered)


def test_what_must_be_remembered_in_one_story():
    told = story_surprise.word_surprises(LANGUAGE, STORY)
    assert [word.word for word in told if word.remembered] == (
        "her umbrella Dot meow troll Zoe her red umbrella bakery".split()
    )
    assert told[0].nats == pytest.approx(math.log(16)) and told[3].nats == pytest.approx(math.log(6))


def test_remembered_words_cost_nothing_and_could_have_been_others(fresh_seed: int):
    for story in stories(fresh_seed, 20):
        flags, told = story_surprise.remembered_words(LANGUAGE, story), story_surprise.word_surprises(LANGUAGE, story)
        assert all(word.nats == 0 for word, flag in zip(told, flags, strict=True) if flag)
        words = split_words(story)
        assert sum(flags) >= 8
        assert not any(flags[: 1 + words.index(LANGUAGE.facts(story)["hero"])])


def test_the_mask_stands_where_the_words_stand(fresh_seed: int):
    rows = LANGUAGE.sample_batch(8, torch.Generator().manual_seed(fresh_seed))
    mask = story_surprise.remembered_mask(LANGUAGE, rows)
    for row, line in zip(rows.tolist(), mask.tolist(), strict=True):
        text = LANGUAGE.tokenizer.decode(row)
        marked = [LANGUAGE.vocabulary[token_id] for token_id, flag in zip(row, line, strict=True) if flag]
        flags = story_surprise.remembered_words(LANGUAGE, text)
        assert marked == [word for word, flag in zip(split_words(text), flags, strict=True) if flag]


def test_next_words_are_as_frequent_as_said():
    rows = LANGUAGE.sample_batch(20000, torch.Generator().manual_seed(1))
    beginning = LANGUAGE.tokenizer.encode("Mia had a")
    begun = rows[(rows[:, 1:4] == torch.tensor(beginning)).all(1)]
    probs = story_surprise.next_word_probs(LANGUAGE, "Mia had a")
    assert len(begun) > 150 and sum(probs.values()) == pytest.approx(1)
    for word, prob in probs.items():
        seen = (begun[:, 4] == LANGUAGE.tokenizer.encode(word)[0]).float().mean().item()
        assert abs(seen - prob) < 5 * math.sqrt(prob / len(begun))


def test_next_words_at_the_ends():
    first = story_surprise.next_word_probs(LANGUAGE, "")
    assert next(iter(first)) == "Once" and first["Once"] == pytest.approx(0.25) and len(first) == 13
    assert story_surprise.next_word_probs(LANGUAGE, "Once upon a") == pytest.approx({"time": 1.0})
    assert story_surprise.next_word_probs(LANGUAGE, STORY) == {"<eos>": 1.0}
    with pytest.raises(ValueError, match="word 2"):
        story_surprise.next_word_probs(LANGUAGE, "Mia Mia")


def test_parts_of_a_uniform_model():
    rows = validation_rows(LANGUAGE, 6)
    mask = story_surprise.remembered_mask(LANGUAGE, rows)
    parts = story_surprise.surprise_parts(lambda ids: torch.zeros(*ids.shape, 128), LANGUAGE, rows, mask)
    targets_per_story = int((rows[:, 1:] != 0).sum()) / 6
    assert parts["story"] == pytest.approx(targets_per_story * math.log(128), rel=1e-4)
    assert parts["remembered"] == pytest.approx(int(mask.sum()) / 6 * math.log(128), rel=1e-4)


def test_forgetting_costs_what_the_choices_cost():
    prices = {"her": 2, "umbrella": 10, "Dot": 16, "meow": 6, "troll": 6, "red": 6, "bakery": 8}
    remembered = "her umbrella Dot meow troll her red umbrella bakery".split()  # without the hero's name
    expected = sum(math.log(prices[word]) for word in remembered)
    assert story_surprise.price_of_forgetting(LANGUAGE, [STORY]) == pytest.approx(expected)
