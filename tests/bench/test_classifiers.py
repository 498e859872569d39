r"""Classifiers: labels are those of the stories, both kinds are equally large, and each is trained on what it says."""

from itertools import islice

import pytest
import torch

from minillm.bench import results
from minillm.bench.variants import classifiers
from minillm.text.stories.grammar import CREATURES
from minillm.text.stories.split import train_rows


def test_labels_are_the_facts_of_the_stories(fresh_seed: int):
    language = classifiers.labelled_language()
    rows = train_rows(language, 20, torch.Generator().manual_seed(fresh_seed))
    for row, label in zip(rows.tolist(), classifiers.creature_labels(rows).tolist(), strict=True):
        assert language.facts(language.tokenizer.decode(row))["creature"] == CREATURES[label]


def test_encoder_and_decoder_are_equally_large(fresh_seed: int):
    sizes = {
        kind: [tuple(weight.shape) for weight in classifiers.fresh_body(kind, fresh_seed).parameters()]
        for kind in ("encoder", "decoder")
    }
    assert sorted(sizes["encoder"]) == sorted(sizes["decoder"])
    with pytest.raises(ValueError, match="kind='both'"):
        classifiers.fresh_body("both", 0)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_unlabelled_stories_ask_for_what_the_kind_is_for(kind: str, fresh_seed: int):
    stream = classifiers.unlabelled_batches(kind, torch.Generator().manual_seed(fresh_seed))
    inputs, targets = (torch.cat(parts) for parts in zip(*islice(stream, 50), strict=True))
    counted = targets != -100
    if kind == "decoder":
        known = counted[:, :-1]
        assert torch.equal(inputs[:, 1:][known], targets[:, :-1][known])
    else:
        mask_id = classifiers.labelled_language().tokenizer.vocab_size
        hidden = inputs == mask_id
        assert hidden.any() and (counted | ~hidden).all() and not (counted & (inputs == 0)).any()
        assert (targets[counted] < mask_id).all() and (targets[counted] > 0).all()


@pytest.mark.parametrize("pool", classifiers.POOLS.values())
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_padding_makes_no_difference(kind: str, pool: str, fresh_seed: int):
    generator = torch.Generator().manual_seed(fresh_seed)
    model = classifiers.PooledClassifier(classifiers.fresh_body(kind, fresh_seed), pool, 6).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        text = torch.randint(3, 128, (1, 9), generator=generator)
        padded = torch.nn.functional.pad(text, (0, 5))
        answer = model(text)
        assert answer.shape == (1, 9, 6) and (answer == answer[:, :1]).all()
        assert torch.allclose(answer[:, 0], model(padded)[:, 0], atol=1e-3)


def test_few_steps_train_every_reader(fresh_seed: int):
    reader = classifiers.READERS["pretrained encoder, mean"]
    model = classifiers.train_labelled(reader, fresh_seed, 16, steps=2, pretrain_steps=2)
    assert 0 <= classifiers.judged_right(model, fresh_seed) <= 1
    assert set(classifiers.READERS) == {
        f"{age} {kind}, {pool}"
        for age in ("fresh", "pretrained") for kind in ("encoder", "decoder") for pool in ("mean", "last token")
    }


def test_the_stored_table_says_what_the_lesson_says():
    rows = {row["name"]: row["values"] for row in results.load_table("classifiers")["rows"]}
    assert set(rows) == set(classifiers.READERS)
    assert len({size for values in rows.values() for size in values["parameters"]}) == 1
    for age, n_labels in (("fresh", 100), ("fresh", 16), ("pretrained", 100), ("pretrained", 16)):
        label = f"right, {n_labels} labels"
        right = {name: sum(values[label]) for name, values in rows.items() if name.startswith(age)}
        assert min(right, key=right.__getitem__) == f"{age} decoder, mean"
    for name in ("pretrained encoder, mean", "pretrained decoder, last token"):
        assert min(rows[name]["right, 100 labels"]) > 0.99
