"""What the stories promise, counted over every skeleton of the grammar, not over samples."""

from itertools import pairwise

from minillm.text.stories import StoryLanguage
from minillm.text.stories.generator import expand_rule, facts_used, slot_facts
from minillm.text.stories.grammar import STORIES

SKELETONS = expand_rule(STORIES, "story")
MARKS = {".", ","}


def test_every_story_has_35_to_60_words_with_and_without_marks():
    for skeleton in SKELETONS:
        words = [symbol for symbol in skeleton.symbols if symbol not in MARKS]
        assert len(words) >= 35 and len(skeleton.symbols) <= 60, " ".join(skeleton.symbols)


def test_vocabulary_and_entropy():
    language = StoryLanguage()
    assert len(language.vocabulary) == len(set(language.vocabulary)) == 128
    assert 17 <= language.entropy() <= 25


def test_every_story_uses_every_fact():
    owner = slot_facts(STORIES)
    for skeleton in SKELETONS:
        assert set(facts_used(skeleton, owner)) == set(STORIES.facts)


def test_seven_facts_are_copied_over_15_words_or_more():
    # Each tuple: the slots whose words reveal the fact. Distances count words only, from the latest earlier mention.
    facts = [("hero",), ("he", "his"), ("friend",), ("animal", "sound"), ("look",), ("object",), ("place",)]
    for skeleton in SKELETONS:
        words = [symbol for symbol in skeleton.symbols if symbol not in MARKS]
        for slots in facts:
            names = {f"{{{slot}}}" for slot in slots}
            mentions = [i for i, symbol in enumerate(words) if symbol in names]
            if slots == ("he", "his"):  # the hero's name tells the first pronoun
                mentions = [words.index("{hero}"), *mentions]
            assert max(b - a for a, b in pairwise(mentions)) >= 15, (slots, words)


def test_kinds_of_fact_share_no_word():
    kinds = [
        {row[slot] for row in rows}
        for rows in STORIES.facts.values()
        for slot in rows[0]
        if slot not in ("a_animal", "a_look")
    ]
    plain = {symbol for skeleton in SKELETONS for symbol in skeleton.symbols if symbol[0] != "{"}
    assert sum(map(len, kinds)) + len(plain) == len(set().union(plain, *kinds))


def test_a_and_an_fit_the_next_word():
    following = {(row["a_look"], row["look"]) for row in STORIES.facts["look"]}
    following |= {(row["a_animal"], row["animal"]) for row in STORIES.facts["animal"]}
    following |= {("a", row["creature"]) for row in STORIES.facts["creature"]}
    for article, word in following:
        assert (article == "an") == (word[0] in "aeiou"), (article, word)
