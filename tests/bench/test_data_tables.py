r"""The tables of duplication and mixture: they measure what they say, on the data that they say."""

import math

import torch

from minillm.bench.variants import duplication, mixture
from minillm.text.stories.split import train_rows


def test_cost_of_a_story_is_that_of_its_tokens(fresh_seed: int):
    language = duplication.pool_language()
    model = duplication.story_model(fresh_seed).eval()
    rows = train_rows(language, 5, torch.Generator().manual_seed(fresh_seed))
    with torch.no_grad():
        log_p = torch.log_softmax(model(rows[:, :-1]), -1)
    total = 0.0
    for i, row in enumerate(rows.tolist()):
        for t, token_id in enumerate(row[1:]):
            if token_id != language.tokenizer.pad_id:
                total -= float(log_p[i, t, token_id])
    assert math.isclose(duplication.nats_a_story(model, rows), total / 5, rel_tol=1e-4)


def test_a_pool_is_read_again_and_again_and_fresh_stories_are_not(fresh_seed: int):
    language = duplication.pool_language()
    generator = torch.Generator().manual_seed(fresh_seed)
    rows = train_rows(language, 3, generator)
    known = set(map(tuple, rows[:, :-1].tolist()))
    inputs, _ = next(duplication.pool_batches(rows, generator))
    assert set(map(tuple, inputs.tolist())) <= known and len(inputs) == duplication.BATCH_SIZE
    inputs, _ = next(duplication.pool_batches(None, generator))
    assert not set(map(tuple, inputs.tolist())) & known


def test_two_steps_give_every_measure(fresh_seed: int):
    few, many = (duplication.measure_pool(n, fresh_seed, steps=2) for n in (16, None))
    assert few["parameters"] == many["parameters"] == sum(p.numel() for p in duplication.story_model(0).parameters())
    assert few["times each was read"] == 4 and many["times each was read"] == 1
    assert few["copied"] == many["copied"] == 0
    assert 100 < few["seen"] < 1000


def test_languages_say_the_same_and_validation_is_new():
    english, chinese = mixture.both_languages("train")
    held_english, held_chinese = mixture.both_languages("validation")
    newline = ord("\n")
    lines = [int((part == newline).sum()) for part in (english, chinese, held_english, held_chinese)]
    assert lines[0] == lines[1] == mixture.N_SENTENCES["train"] - 1
    assert lines[2] == lines[3] == mixture.N_SENTENCES["validation"] - 1
    known = set(bytes(english.tolist()).splitlines())
    assert not known & set(bytes(held_english.tolist()).splitlines())


def test_a_mixture_of_one_language_is_that_language(fresh_seed: int):
    inputs, _ = next(mixture.mixed_batches(0.0, fresh_seed))
    assert int(inputs.max()) < 128, "English is ASCII"
    inputs, _ = next(mixture.mixed_batches(1.0, fresh_seed))
    assert (inputs >= 128).double().mean() > 0.9
    costs = mixture.measure_mixture(0.5, fresh_seed, steps=2)
    assert set(costs) == {"English", "Chinese"} and all(1 < cost < 8 for cost in costs.values())
