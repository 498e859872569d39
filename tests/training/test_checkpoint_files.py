r"""What is not whole, or not ours, is refused by name; and a checkpoint is never a way in for code."""

import hashlib
import json
import os
import random
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from minillm.training import checkpoint, checkpoint_files
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from tests.training.small import VOCAB, save_small, small_model, small_tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("good")
    save_small(directory, 5, about={"corpus": "numbers"})
    checkpoint.resume(directory)
    return directory


def refused(directory):
    r"""Both ways of reading refuse, and say which file; the message is returned."""
    with pytest.raises(ValueError) as loading:
        checkpoint.load(directory)
    with pytest.raises(ValueError) as resuming:
        checkpoint.resume(directory)
    assert str(directory) in str(loading.value) and str(directory) in str(resuming.value)
    return str(loading.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), damage=st.sampled_from(["cut", "flip", "grow", "empty", "gone"]))
def test_a_damaged_file_is_refused_by_name(good, tmp_path, seed, damage):
    rng = random.Random(seed)
    directory = tmp_path / "copy"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(good, directory)
    path = rng.choice(sorted(directory.iterdir()))
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if damage == "cut":
        data = data[:place]
    elif damage == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif damage == "grow":
        data += bytes([rng.randrange(256)])
    elif damage == "empty":
        data = b""
    path.unlink() if damage == "gone" else path.write_bytes(data)
    try:
        torch_state = torch.get_rng_state()
        state, _, _ = checkpoint.resume(directory)
    except ValueError as error:
        assert str(directory) in str(error)
        if path.name != "checkpoint.json" or damage == "gone":
            assert path.name in str(error)
    else:  # a change of white space in the JSON is no damage
        assert path.name == "checkpoint.json" and damage in ("flip", "grow")
        assert json.loads(bytes(data)) == json.loads((good / path.name).read_bytes())
        assert state.step == 2
    finally:
        torch.set_rng_state(torch_state)


def rewritten(good, directory, change, part=None, tensors=None):
    r"""A copy of a checkpoint whose JSON was changed and signed again, as by somebody who means it."""
    shutil.copytree(good, directory)
    path = directory / "checkpoint.json"
    index = json.loads(path.read_text())
    del index["sha256"]
    if part is not None:
        data = tensors if isinstance(tensors, bytes) else save(tensors)
        (directory / index["files"][part]["name"]).write_bytes(data)
        index["files"][part]["sha256"] = hashlib.sha256(data).hexdigest()
    change(index)
    index["sha256"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(index))
    return directory


def put(*keys, value):
    r"""A change that sets one entry of the JSON."""

    def change(index):
        for key in keys[:-1]:
            index = index[key]
        index[keys[-1]] = value

    return change


@pytest.mark.parametrize(("change", "message"), [
    (put("version", value=1), "format version 1; this minillm reads version 2"),
    (put("format", value="other"), "not a checkpoint of minillm"),
    (put("config", "d_model", value=24), "does not fit its config"),
    (put("config", "n_heads", value="two"), "n_heads='two'"),
    (put("config", "colour", value=1), "not a model config"),
    (put("config", value=[]), "'config' is missing"),
    (put("tokenizer", value={"kind": "runes"}), "'runes'"),
    (put("tokenizer", value={"kind": "words"}), "words"),
    (put("tokenizer", "words", value=[f"v{i}" for i in range(99)]), "the tokenizer has 102 tokens, the model only 19"),
    (put("files", value={}), "names no 'model' file"),
    (put("files", "model", "name", value="../../etc/passwd"), "passwd is missing"),
    (put("files", "model", value=None), "names no 'model' file"),
    (put("files", "model", value={"name": 3}), "names no 'model' file"),
])  # fmt: skip
def test_a_wrong_index_is_refused(good, tmp_path, change, message):
    assert message in refused(rewritten(good, tmp_path / "copy", change))


@pytest.mark.parametrize(("change", "message"), [
    (put("run", "step", value="three"), "'run' is"),
    (put("run", value=3), "'run' is missing"),
    (put("recipe", "learning_rate", value=-1.0), "learning_rate=-1.0"),
    (put("recipe", value={}), "not a recipe"),
    (put("run", "dtype", value="int8"), "dtype='int8'"),
])  # fmt: skip
def test_a_run_that_makes_no_sense_is_not_resumed(good, tmp_path, change, message):
    with pytest.raises(ValueError, match="copy") as error:
        checkpoint.resume(rewritten(good, tmp_path / "copy", change))
    assert message in str(error.value)


def foreign_tensors(kind):
    tensors = {name: p.detach().clone() for name, p in small_model(1).named_parameters()}
    tensors.update({
        "missing": {}, "extra": {"blocks.9.w": torch.zeros(2)}, "shape": {"tok_emb.weight": torch.zeros(VOCAB, 15)},
        "dtype": {"tok_emb.weight": torch.zeros(VOCAB, 16, dtype=torch.float16)},
        "nan": {"final_norm.weight": torch.full((16,), float("nan"))},
    }[kind])  # fmt: skip
    if kind == "missing":
        del tensors["tok_emb.weight"]
    return tensors


@pytest.mark.parametrize(("kind", "message"), [
    ("missing", "missing tensors ['tok_emb.weight']"), ("extra", "unknown ['blocks.9.w']"),
    ("shape", "tok_emb.weight is torch.float32 (19, 15), expected torch.float32 (19, 16)"),
    ("dtype", "tok_emb.weight is torch.float16"), ("nan", "final_norm.weight holds inf or nan"),
])  # fmt: skip
def test_tensors_of_another_model_are_refused(good, tmp_path, kind, message):
    directory = rewritten(good, tmp_path / "copy", lambda index: None, "model", foreign_tensors(kind))
    got = refused(directory)
    assert message in got and "model-" in got


def test_a_pickle_is_not_opened(good, tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    directory = rewritten(good, tmp_path / "copy", lambda index: None, "model", pickle.dumps(Harm()))
    assert "is not a safetensors file" in refused(directory)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("change", [
    lambda t: t.pop("exp_avg.tok_emb.weight"), lambda t: t.update({"exp_avg.final_norm.weight": torch.zeros(3)}),
    lambda t: t.update({"exp_avg_sq.final_norm.weight": torch.zeros(16, dtype=torch.int64)}),
    lambda t: t.update({"exp_avg.third": torch.zeros(())}),
    lambda t: t.pop("random.torch.0"), lambda t: t.update({"random.torch.0": torch.zeros(5, dtype=torch.uint8)}),
    lambda t: t.update({"random.torch.0": torch.zeros(5)}),
])  # fmt: skip
def test_an_optimizer_of_another_run_is_refused(good, tmp_path, change):
    index = checkpoint_files.read_index(good)
    tensors = checkpoint_files.read_tensors(good, index, "training")
    change(tensors)
    directory = rewritten(good, tmp_path / "copy", lambda index: None, "training", tensors)
    with pytest.raises(ValueError, match="copy"):
        checkpoint.resume(directory)
    checkpoint.load(directory)  # whoever only wants the model is not troubled


def test_no_checkpoint_at_all(tmp_path):
    assert "it has no checkpoint.json" in refused(tmp_path)
    assert "it has no checkpoint.json" in refused(tmp_path / "nowhere")
    (tmp_path / "checkpoint.json").write_text('["a list"]')
    assert "not a checkpoint of minillm" in refused(tmp_path)
    (tmp_path / "checkpoint.json").write_bytes(b"\xff\xfe\x00")
    assert "is damaged: not JSON" in refused(tmp_path)
    (tmp_path / "checkpoint.json").write_text("[" * 100000)
    assert "is damaged: not JSON" in refused(tmp_path)


def test_what_is_not_json_cannot_be_kept(tmp_path):
    state = TrainingState(small_model(0), Recipe(dtype="fp32"))
    with pytest.raises(ValueError, match="not JSON data"):
        checkpoint.save(tmp_path, state, small_tokenizer(), about={"model": state.model})
    assert not (tmp_path / "checkpoint.json").exists()
