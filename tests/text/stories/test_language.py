"""The generator and the parser, each tested against the other and against lists written out in full."""

import math
import random
from itertools import product

import pytest
import torch

from minillm.text.stories import StoryLanguage
from minillm.text.stories.generator import StoryTeller
from minillm.text.stories.grammar import STORIES, Grammar, fact_table
from minillm.text.stories.parser import parse_words
from minillm.text.words import join_words

LANGUAGE = StoryLanguage()


def small_grammar(rng: random.Random) -> Grammar:
    """A cut of the real grammar: a random two choices of a rule, random two rows of three facts, one of the others."""
    rules = {}
    for name, choices in STORIES.rules.items():
        kept = rng.sample(choices, min(2, len(choices)))
        rules[name] = tuple((rng.uniform(0.5, 3.0), symbols) for _, symbols in kept)
    rules["reaction"] = rules["reaction"][:1]
    many = rng.sample(sorted(STORIES.facts), 3)
    facts = {n: tuple(rng.sample(rows, 2 if n in many else 1)) for n, rows in STORIES.facts.items()}
    return Grammar(rules=rules, facts=facts)


def all_texts(grammar: Grammar) -> set[str]:
    """Every text of a small grammar, by rewriting strings: an enumeration that shares nothing with the package."""
    unfinished, finished = ["<story>"], []
    while unfinished:
        text = unfinished.pop()
        if "<" not in text:
            finished.append(text)
            continue
        name = text[text.index("<") + 1 : text.index(">")]
        unfinished += [text.replace(f"<{name}>", symbols, 1) for _, symbols in grammar.rules[name]]
    texts = set()
    for text in finished:
        for rows in product(*grammar.facts.values()):
            told = text.format(**{slot: word for row in rows for slot, word in row.items()})
            texts.add(" ".join(told.split()).replace(" .", ".").replace(" ,", ","))
    return texts


def test_every_story_has_exactly_one_derivation_and_both_sides_agree_on_its_probability(fresh_seed: int):
    teller, rng = StoryTeller(STORIES), random.Random(fresh_seed)
    for _ in range(400):
        words, log_prob = teller.tell(rng)
        derivations = LANGUAGE.parse(join_words(words)).derivations
        assert len(derivations) == 1
        assert math.isclose(derivations[0].log_prob, log_prob, rel_tol=1e-12)


def test_mean_surprise_of_samples_is_the_entropy(fresh_seed: int):
    rng = random.Random(fresh_seed)
    surprises = torch.tensor([-LANGUAGE.log_prob(LANGUAGE.sample(rng)) for _ in range(1000)], dtype=torch.float64)
    error = surprises.std() / len(surprises) ** 0.5
    assert abs(surprises.mean() - LANGUAGE.entropy()) < 5 * error


def test_probabilities_of_all_stories_of_a_small_language_sum_to_one(fresh_seed: int):
    grammar = small_grammar(random.Random(fresh_seed))
    language = StoryLanguage(grammar)
    log_probs = [language.log_prob(text) for text in all_texts(grammar)]
    assert len(log_probs) >= 100
    assert math.isclose(math.fsum(map(math.exp, log_probs)), 1.0, rel_tol=1e-9)
    assert math.isclose(-math.fsum(math.exp(x) * x for x in log_probs), language.entropy(), rel_tol=1e-9)


def test_parser_counts_two_derivations_where_there_are_two():
    # "a b c" is "a b" + "c" and "a" + "b c": the parser must see both, and their probabilities add up.
    rules = {"story": ((1, "<left> <right>"),), "left": ((1, "a"), (3, "a b")), "right": ((1, "b c"), (1, "c"))}
    grammar = Grammar(rules=rules, facts={"none": fact_table("none", "z")})
    parse = parse_words(grammar, ["a", "b", "c"])
    assert sorted(math.exp(reading.log_prob) for reading in parse.derivations) == pytest.approx([1 / 8, 3 / 8])
    language = StoryLanguage(grammar)
    assert math.exp(language.log_prob("a b c")) == pytest.approx(1 / 2)


def test_check_accepts_exactly_the_language_and_points_at_the_first_impossible_word(fresh_seed: int):
    rng = random.Random(fresh_seed)
    grammar = small_grammar(rng)
    language, texts = StoryLanguage(grammar), all_texts(grammar)
    words_of = [text.replace(".", " .").replace(",", " ,").split() for text in texts]
    prefixes = {tuple(words[:n]) for words in words_of for n in range(len(words) + 1)}
    vocabulary = language.vocabulary[3:]
    n_rejected = 0
    for _ in range(300):
        words = list(rng.choice(words_of))
        i = rng.randrange(len(words))
        change = rng.choice(["replace", "drop", "insert", "swap", "cut"])
        if change == "replace":
            words[i] = rng.choice(vocabulary)
        elif change == "drop":
            del words[i]
        elif change == "insert":
            words.insert(i, rng.choice(vocabulary))
        elif change == "swap":
            words[i], words[i - 1] = words[i - 1], words[i]
        else:
            words = words[:i]
        verdict = language.check(join_words(words))
        assert verdict.ok == (join_words(words) in texts)
        if not verdict.ok:
            n_rejected += 1
            assert verdict.where is not None and verdict.why
            assert tuple(words[: verdict.where]) in prefixes
            assert verdict.where == len(words) or tuple(words[: verdict.where + 1]) not in prefixes
            assert language.log_prob(join_words(words)) == -math.inf
    assert n_rejected > 100


STORY = (
    "Mia had a pig called Pip and wanted a red kite. One day she saw one in the castle. There a ghost was hugging a "
    "red kite. Pip said oink, and the ghost said sorry. Now Mia keeps her red kite far from the castle."
)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("Now Mia", "Now Tom", "word 42: the story is about Mia, here it is Tom"),
        ("she saw", "he saw", "word 15: the story is about Mia, so it is she, here it is he"),
        ("keeps her", "keeps his", "word 44: the story is about Mia, so it is her, here it is his"),
        ("Pip said", "Dot said", "word 31: the friend is called Pip, here it is Dot"),
        ("oink", "moo", "word 33: the friend is a pig, which says oink, here it says moo"),
        ("her red", "her blue", "word 45: the kite is red, here it is blue"),
        (
            "hugging a red kite",
            "hugging a red drum",
            "word 29: the story is about a red kite, here the thing is a drum",
        ),
        ("from the castle", "from the cave", "word 50: it happened in the castle, here it is the cave"),
        ("the ghost", "the bear", "word 37: they met a ghost, here it is a bear"),
        ("saw one", "saw saw", "word 17: 'saw' cannot stand here; it could be: one"),
        ("wanted a red", "wanted a old", "word 10: 'old' cannot stand here; it could be: blue, golden, red, shiny ..."),
        ("saw one", "ate one", "word 16: 'ate' is not a word of the story language; here it could be: saw"),
        ("far from the castle.", "far", "the text ends after 47 words; it could go on with: from"),
        ("the castle. There", "the castle.  There", "the words are right, but not the spaces between them"),
        ("from the castle.", "from the castle. Mia", "word 52: the story was over, but 'Mia' follows"),
    ],
)
def test_verdicts_say_what_is_wrong(old: str, new: str, why: str):
    assert STORY.count(old) == 1 and LANGUAGE.check(STORY).ok
    verdict = LANGUAGE.check(STORY.replace(old, new))
    assert not verdict.ok and verdict.why == why


def test_facts():
    facts = LANGUAGE.facts(STORY)
    assert [facts[slot] for slot in ("hero", "his", "animal", "sound", "friend", "look", "object", "place")] == (
        ["Mia", "her", "pig", "oink", "Pip", "red", "kite", "castle"]
    )
    with pytest.raises(ValueError, match="here it could be: Ada, Amara"):
        LANGUAGE.facts("Hello")


def test_same_seed_same_story(fresh_seed: int):
    assert LANGUAGE.sample(random.Random(fresh_seed)) == LANGUAGE.sample(random.Random(fresh_seed))
    assert len({LANGUAGE.sample(random.Random(fresh_seed + i)) for i in range(20)}) == 20
