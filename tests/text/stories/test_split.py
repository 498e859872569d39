"""Training and validation never meet, and the split leaves the entropy floor where it is."""

import random
from itertools import islice

import torch

from minillm.text.stories import StoryLanguage, split

LANGUAGE = StoryLanguage()


def test_no_seed_brings_a_validation_story_into_training(fresh_seed: int):
    for seed in range(fresh_seed, fresh_seed + 3):
        rows = split.train_rows(LANGUAGE, 2000, torch.Generator().manual_seed(seed))
        assert not split.story_side(rows).any()
        held_out = split.validation_rows(LANGUAGE, 300, seed)
        assert split.story_side(held_out).all()
        assert not {tuple(row) for row in rows.tolist()} & {tuple(row) for row in held_out.tolist()}


def test_text_streams_are_on_their_sides_and_seeded(fresh_seed: int):
    a, b = fresh_seed, fresh_seed + 1
    told = list(islice(split.train_stories(LANGUAGE, a), 300))
    assert told == list(islice(split.train_stories(LANGUAGE, a), 300))
    assert told != list(islice(split.train_stories(LANGUAGE, b), 300))
    assert not any(split.is_validation(LANGUAGE, text) for text in told)
    held_out = split.validation_stories(LANGUAGE, 50, b)
    assert held_out == split.validation_stories(LANGUAGE, 50, b) and len(held_out) == 50
    assert all(split.is_validation(LANGUAGE, text) and LANGUAGE.check(text).ok for text in held_out)


def test_hash_is_the_documented_one(fresh_seed: int):
    rng = random.Random(20170612)
    weights = [rng.randrange(-(2**63), 2**63) for _ in range(LANGUAGE.max_len)]
    rows = LANGUAGE.sample_batch(3000, torch.Generator().manual_seed(fresh_seed))
    expected = [(sum(i * w for i, w in zip(row, weights, strict=True)) % 2**64) >> 58 == 0 for row in rows.tolist()]
    assert split.story_side(rows).tolist() == expected and any(expected)


def test_share_and_floor(fresh_seed: int):
    rows = LANGUAGE.sample_batch(100_000, torch.Generator().manual_seed(fresh_seed))
    share = split.story_side(rows).double().mean()
    assert abs(share - 1 / 64) < 6 * (1 / 64 / 100_000) ** 0.5
    held_out = split.validation_stories(LANGUAGE, 400, fresh_seed)
    surprises = torch.tensor([-LANGUAGE.log_prob(text) for text in held_out], dtype=torch.float64)
    assert abs(surprises.mean() - LANGUAGE.entropy()) < 5 * surprises.std() / len(surprises) ** 0.5
