r"""What all methods promise: the base is untouched, the loop trains them in any format, a file brings them back."""

import pytest
import torch

from minillm import tuning
from minillm.inference.generate import generate
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from minillm.tuning.card import small_tensors
from minillm.tuning.methods import METHODS
from tests.tuning.every_method import SETTINGS, STACKS, VOCAB, small_base, tuned_by


def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    while True:
        ids = torch.randint(VOCAB, (3, 13), generator=generator)
        yield ids[:, :-1], ids[:, 1:]


def trained(model, seed, dtype="fp32", **options):
    train(model, batches(seed), Recipe(dtype=dtype, warmup_steps=0, learning_rate=1e-2, **options), steps=4)
    return model


def test_all_methods_are_here():
    assert set(METHODS) == set(SETTINGS)
    assert all(getattr(tuning, name) is METHODS[name] for name in METHODS)


@pytest.mark.parametrize("names", STACKS, ids="+".join)
def test_trained_kept_and_brought_back(fresh_seed, tmp_path, names):
    base = small_base(fresh_seed)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    torch.manual_seed(fresh_seed)
    tuned = tuned_by(base, names)
    fresh = {name: tensor.clone() for name, tensor in small_tensors(tuned).items()}
    needs = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    trained(tuned, fresh_seed, "bf16" if fresh_seed % 2 else "fp32")
    after = small_tensors(tuned)
    assert {name for name, tensor in after.items() if not torch.equal(tensor, fresh[name])} == needs
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())

    ids = torch.randint(VOCAB, (2, 9))
    want = tuned(ids)
    tuning.save(tuned, tmp_path / "small.safetensors")
    again = tuning.load(base, tmp_path / "small.safetensors")
    assert torch.equal(again(ids), want) and not torch.equal(want, base(ids))
    assert [step.method for step in again.card.steps()] == names
    cache = again.new_cache(2, 9)
    pieces = [again(piece, cache=cache) for piece in ids.split([4, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), want, rtol=1e-4, atol=1e-4)
    assert generate(again, ids[:1], 3, temperature=0.0).shape == (1, 12)

    finished = tuning.finished(again)
    torch.testing.assert_close(finished(ids), want, rtol=1e-5, atol=1e-5)
    tuning.save(finished, tmp_path / "small.safetensors")
    torch.testing.assert_close(tuning.load(base, tmp_path / "small.safetensors")(ids), finished(ids), rtol=0, atol=0)


@pytest.mark.parametrize("names", [["lora", "prefix_tuning"], ["p_tuning_v2", "dora"], ["lora", "p_tuning", "dora"]],
                         ids="+".join)  # fmt: skip
def test_merging_leaves_other_methods_in_place(fresh_seed, names):
    base, ids = small_base(fresh_seed), torch.randint(VOCAB, (2, 9))
    settings = {"lora": {"name": "first"}}
    tuned = base
    for name in names:
        tuned = METHODS[name](tuned, **SETTINGS[name] | settings.get(name, {}))
    trained(tuned, fresh_seed)
    merged = tuning.merged(tuned)
    torch.testing.assert_close(merged(ids), tuned(ids), rtol=1e-3, atol=1e-3)
    left = [name for name in names if name not in ("lora", "dora")]
    assert [step.method for step in merged.card.steps()] == left
    kept, before = small_tensors(merged), small_tensors(tuned)
    assert set(kept) == {name for name in before if ".adapters." not in name}
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items())


@pytest.mark.parametrize("name", SETTINGS)
def test_recomputed_blocks_train_alike(fresh_seed, name):
    base, models = small_base(fresh_seed), []
    for recompute in (False, True):
        torch.manual_seed(fresh_seed)
        models.append(trained(tuned_by(base, [name]), fresh_seed, recompute=recompute))
    plain, again = (small_tensors(model) for model in models)
    for key, tensor in plain.items():
        torch.testing.assert_close(again[key], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
