"""Word tokens: exact on stories, clear about words they do not know."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.text.stories import StoryLanguage
from minillm.text.words import WordTokenizer, join_words, split_words

LANGUAGE = StoryLanguage()


def test_round_trip_on_stories(fresh_seed: int):
    rng = random.Random(fresh_seed)
    for _ in range(200):
        story = LANGUAGE.sample(rng)
        ids = LANGUAGE.tokenizer.encode(story)
        assert LANGUAGE.tokenizer.decode(ids) == story
        assert len(ids) == len(story.split()) + story.count(".") + story.count(",")


@given(st.lists(st.sampled_from([".", ",", "!", "Mia", "kite", "a", "über"])))
def test_words_survive_joining(words: list[str]):
    assert split_words(join_words(words)) == words


def test_special_tokens():
    tokenizer = WordTokenizer(["a", "kite", "."])
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 2, 6)
    assert tokenizer.encode("a  kite .") == [3, 4, 5]
    assert tokenizer.decode([1, 3, 4, 5, 2, 3, 0]) == "a kite."
    assert tokenizer.decode([3, 1, 0, 4]) == "a <bos> <pad> kite"
    assert WordTokenizer.from_dict(tokenizer.to_dict()).vocabulary == tokenizer.vocabulary


def test_errors():
    tokenizer = WordTokenizer(["a", "kite"])
    with pytest.raises(ValueError, match="word 3 of the text, 'drum', is not among the 2 words"):
        tokenizer.encode("a kite drum")
    with pytest.raises(ValueError, match=r"token_ids\[1\] is 5; ids of this vocabulary go from 0 to 4"):
        tokenizer.decode([0, 5])
    with pytest.raises(ValueError, match=r"must not repeat, but \['a'\] do"):
        WordTokenizer(["a", "b", "a"])
    with pytest.raises(ValueError, match="not 'two words'"):
        WordTokenizer(["two words"])
