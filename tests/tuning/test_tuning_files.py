r"""The file of the small part: what it holds, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from minillm import tuning
from minillm.inference.quantization.convert import quantize_model
from minillm.tuning.card import small_tensors
from tests.tuning.test_lora_model import base_model, filled, some_ids


@pytest.fixture
def tuned_file(fresh_seed, tmp_path):
    r"""A base, a model of two adapters, and its file."""
    base = base_model(fresh_seed).float()
    one = filled(tuning.lora(base, 2, 3.0, ["q_proj", "down_proj"], rank_stabilized=True, name="one"), fresh_seed)
    both = filled(tuning.lora(one, 3, name="two"), fresh_seed)
    path = tmp_path / "new" / "small.safetensors"
    tuning.save(both, path)
    return base, both, path


def test_card_and_small_tensors_make_the_model_again(fresh_seed, tuned_file):
    base, tuned, path = tuned_file
    state = torch.get_rng_state()
    again = tuning.load(base, path)
    assert torch.equal(torch.get_rng_state(), state), "loading costs no random numbers"
    ids = some_ids(fresh_seed)
    assert torch.equal(again(ids), tuned(ids)) and again.card == tuned.card
    with tuning.active(again, "one"), tuning.active(tuned, "one"):
        assert torch.equal(again(ids), tuned(ids))
    assert again.training == base.training
    small = sum(tensor.numel() for tensor in small_tensors(tuned).values())
    held = load_file(path)
    assert sum(tensor.numel() for tensor in held.values()) == small + base.config.d_model
    with safe_open(path, "pt") as file:
        assert [step["method"] for step in json.loads(file.metadata()["card"])] == ["lora", "lora"]
    tuning.save(again, path)
    assert {name: tensor.tolist() for name, tensor in load_file(path).items()} == {
        name: tensor.tolist() for name, tensor in held.items()}
    assert [each.name for each in path.parent.iterdir()] == [path.name], "nothing beside it is left"


def test_it_fits_the_same_base_in_other_formats(fresh_seed, tuned_file):
    base, tuned, path = tuned_file
    for other in (quantize_model(base, "int8"), base_model(fresh_seed).bfloat16()):
        again = tuning.load(other, path)
        for name, tensor in small_tensors(tuned).items():
            assert torch.equal(small_tensors(again)[name], tensor), name
        assert torch.isfinite(again(some_ids(fresh_seed))).all()


def test_another_base_is_refused(fresh_seed, tuned_file):
    base, _, path = tuned_file
    with pytest.raises(ValueError, match="cannot be done to this model.*give the base that it was made for"):
        tuning.load(torch.nn.ModuleDict(), path)
    other = base_model(fresh_seed).float()
    with torch.no_grad():
        other.final_norm.weight[3] *= 1.1
    with pytest.raises(ValueError, match="was made for another base, whose final_norm.weight has other numbers"):
        tuning.load(other, path)
    wide = base_model(fresh_seed, "experts").float()
    with pytest.raises(ValueError, match=r"does not fit what its card says: missing \['blocks"):
        tuning.load(wide, path)


def rewritten(path, change_tensors=lambda tensors: None, **metadata):
    tensors = load_file(path)
    change_tensors(tensors)
    with safe_open(path, "pt") as file:
        told = file.metadata() | metadata
    save_file(tensors, path, metadata=told)


def step(method="lora", **settings):
    return {"card": json.dumps([{"method": method, "settings": settings}])}


@pytest.mark.parametrize(("message", "metadata"), [
    ("is no file of minillm.tuning.save", {"format": "pt"}),
    ("has format version '9'", {"version": "9"}),
    ("its card cannot be read", {"card": "{"}),
    ("its card cannot be read", {"card": "[1]"}),
    ("its card cannot be read", {"card": "[" * 100000}),
    ("or none at all", {"card": "[]"}),
    ("names a method that is none of", step("os.system")),
    ("names a method that is none of", {"card": '[{"method": "lora", "settings": [1]}]'}),
    ("cannot be done to this model", step(rank=10**9)),
    ("cannot be done to this model", step(rank="eight")),
    ("cannot be done to this model", step(model=1)),
    ("does not fit what its card says", step(rank=2)),
])
def test_what_a_bad_file_says_is_refused(tuned_file, message, metadata):
    base, _, path = tuned_file
    rewritten(path, **metadata)
    with pytest.raises(ValueError, match=message) as caught:
        tuning.load(base, path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(("message", "change"), [
    ("missing", lambda tensors: tensors.popitem()),
    (r"unknown \['more'\]", lambda tensors: tensors.update(more=torch.ones(2))),
    ("holds inf or nan", lambda tensors: [tensor.fill_(torch.nan) for name, tensor in tensors.items()
                                          if name.endswith("lora_b")]),
    (r"is torch.float32 \(1,\), and this model wants", lambda tensors: tensors.update(
        {name: torch.ones(1) for name in tensors if "lora_a" in name})),
    ("is torch.int64", lambda tensors: tensors.update(
        {name: tensor.long() for name, tensor in tensors.items() if "lora_a" in name})),
])
def test_tensors_that_do_not_fit_are_refused(tuned_file, message, change):
    base, _, path = tuned_file
    rewritten(path, change)
    with pytest.raises(ValueError, match=message):
        tuning.load(base, path)


def test_files_that_are_none(tuned_file, tmp_path):
    base, tuned, path = tuned_file
    with pytest.raises(ValueError, match="no such file"):
        tuning.load(base, tmp_path / "nothing.safetensors")
    for data in (path.read_bytes()[:-10], b"", b"\x80\x04pickle", path.read_bytes()[:50]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is no safetensors file, or damaged"):
            tuning.load(base, path)
        with pytest.raises(ValueError, match="is no safetensors file, or damaged"):
            tuning.save(tuned, path)
        assert path.read_bytes() == data, "what is not ours is not written over"
    with pytest.raises(ValueError, match="no such file"):
        tuning.load(base, tmp_path)
    foreign = tmp_path / "weights.safetensors"
    save_file({"x": torch.ones(2)}, foreign)
    with pytest.raises(ValueError, match="but other safetensors"):
        tuning.save(tuned, foreign)


def test_what_cannot_be_saved(tuned_file, tmp_path):
    base, tuned, _ = tuned_file
    with pytest.raises(ValueError, match=r"ends in .safetensors"):
        tuning.save(tuned, tmp_path / "small.bin")
    for plain in (base, tuning.merged(tuned)):
        with pytest.raises(ValueError, match="is no tuned model"):
            tuning.save(plain, tmp_path / "small.safetensors")
    with torch.no_grad():
        next(iter(small_tensors(tuned).values()))[0] = torch.inf
    with pytest.raises(ValueError, match="holds inf or nan; train again with a smaller learning_rate"):
        tuning.save(tuned, tmp_path / "small.safetensors")
    assert [*tmp_path.glob("*.safetensors*")] == []
