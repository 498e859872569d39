"""Batches of stories are the stories of the generator, with the same chances."""

import random

import torch

from minillm.text.stories import StoryLanguage
from minillm.text.stories.generator import StoryTeller, slot_facts
from minillm.text.stories.grammar import STORIES
from minillm.text.stories.sampler import StorySampler
from minillm.text.words import join_words

LANGUAGE = StoryLanguage()
TOKENIZER = LANGUAGE.tokenizer


def test_fill_is_the_same_as_choosing_one_by_one(fresh_seed: int):
    """With uniform numbers in, story k must come out when the first lands in skeleton k's share of [0, 1)."""
    teller = StoryTeller(STORIES)
    sampler, owner = StorySampler(teller, TOKENIZER), slot_facts(STORIES)
    generator = torch.Generator().manual_seed(fresh_seed)
    chances = torch.rand(300, 1 + len(STORIES.facts), dtype=torch.float64, generator=generator)
    for numbers, row in zip(chances.tolist(), sampler.fill(chances).tolist(), strict=True):
        below, k = 0.0, -1
        while below <= numbers[0]:
            k += 1
            below += teller.skeletons[k].prob
        rows = {f: rows[int(u * len(rows))] for (f, rows), u in zip(STORIES.facts.items(), numbers[1:], strict=True)}
        words = [rows[owner[s[1:-1]]][s[1:-1]] if s[0] == "{" else s for s in teller.skeletons[k].symbols]
        expected = [TOKENIZER.bos_id, *TOKENIZER.encode(join_words(words)), TOKENIZER.eos_id]
        assert row == expected + [TOKENIZER.pad_id] * (LANGUAGE.max_len - len(expected))


def test_batches_and_single_stories_have_the_same_word_counts(fresh_seed: int):
    n = 4000
    g = torch.Generator().manual_seed(fresh_seed)
    rng = random.Random(fresh_seed)
    rows = LANGUAGE.sample_batch(n, g)
    single = torch.zeros(n, LANGUAGE.max_len, dtype=torch.long)
    for row in single:
        ids = TOKENIZER.encode(LANGUAGE.sample(rng))
        row[: len(ids)] = torch.tensor(ids)
    # In what share of the stories does each word occur? Two estimates of the same share differ by a few deviations.
    for token_id in range(3, TOKENIZER.vocab_size):
        a = (rows == token_id).any(1).double().mean()
        b = (single == token_id).any(1).double().mean()
        share = (a + b) / 2
        assert abs(a - b) <= 6 * (2 * share * (1 - share) / n).sqrt(), TOKENIZER.vocabulary[token_id]
        assert a > 0


def test_rows_are_stories(fresh_seed: int):
    rows = LANGUAGE.sample_batch(200, torch.Generator().manual_seed(fresh_seed))
    assert rows.dtype == torch.int64 and rows.shape == (200, LANGUAGE.max_len)
    for row in rows.tolist():
        assert LANGUAGE.check(TOKENIZER.decode(row)).ok
