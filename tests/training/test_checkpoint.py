r"""Checkpoints: resumed to the last bit, and written so that there is always a whole one."""

import os
import shutil

import pytest
import torch

from minillm.training import checkpoint, checkpoint_files
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from tests.training.small import counting_batches, save_small, small_model, small_tokenizer

TOKENIZER = small_tokenizer()


@pytest.mark.parametrize(("dtype", "accumulation", "n_before"), [
    ("fp32", 1, 1), ("fp32", 2, 5), ("bf16", 1, 4), ("bf16", 3, 2), ("fp16", 1, 6)])  # fmt: skip
def test_resuming_is_exact_to_the_last_bit(tmp_path, fresh_seed, dtype, accumulation, n_before):
    recipe = Recipe(dtype=dtype, accumulation=accumulation, warmup_steps=3, schedule="cosine")

    def begin():
        torch.manual_seed(fresh_seed)  # dropout draws from the global generator
        generator = torch.Generator().manual_seed(fresh_seed)
        return TrainingState(small_model(fresh_seed, dropout=0.2), recipe), generator

    whole, generator = begin()
    train(whole.model, counting_batches(generator), state=whole, steps=9)
    after = torch.rand(3), torch.rand(3, generator=generator)

    part, generator = begin()

    class Save:
        def on_step(self, info):
            if info["step"] == n_before:
                checkpoint.save(tmp_path, part, TOKENIZER, generator=generator)

    train(part.model, counting_batches(generator), state=part, steps=9, callbacks=[Save()])

    torch.manual_seed(fresh_seed + 1)
    torch.rand(5)
    generator = torch.Generator()
    resumed, _, _ = checkpoint.resume(tmp_path, generator=generator)
    assert resumed.step == n_before and resumed.recipe == recipe
    train(resumed.model, counting_batches(generator), state=resumed, steps=9)
    for name, want in whole.model.named_parameters():
        assert torch.equal(dict(resumed.model.named_parameters())[name], want), name
    for name, want in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], want), name
    assert {**resumed.counters(), "seconds": 0} == {**whole.counters(), "seconds": 0}
    assert torch.equal(torch.rand(3), after[0]) and torch.equal(torch.rand(3, generator=generator), after[1])


def test_load_gives_the_model_to_use(tmp_path, fresh_seed):
    state = save_small(tmp_path, fresh_seed, about={"corpus": "numbers", "nested": [1, {"é": None}]})
    random_state = torch.get_rng_state()
    model, tokenizer, about = checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), random_state), "loading has used up random numbers"
    assert model.config == state.model.config and not model.training
    for (name, got), want in zip(model.named_parameters(), state.model.parameters(), strict=True):
        assert torch.equal(got, want), name
    assert model.lm_head.weight is model.tok_emb.weight
    assert tokenizer.to_dict() == TOKENIZER.to_dict()
    assert about["corpus"] == "numbers" and about["nested"] == [1, {"é": None}]
    assert about["run"]["step"] == 2 and about["run"]["tokens"] == state.tokens


def test_a_run_that_has_not_begun_can_be_kept(tmp_path):
    state = TrainingState(small_model(0), Recipe(dtype="fp32"))
    checkpoint.save(tmp_path, state, TOKENIZER)
    resumed, _, _ = checkpoint.resume(tmp_path)
    assert resumed.step == 0 and resumed.optimizer_steps == 0
    assert not any(t.any() for name, t in resumed.tensors().items() if name.startswith("exp_avg"))
    with pytest.raises(ValueError, match="without the generator of its batches"):
        checkpoint.resume(tmp_path, generator=torch.Generator())


def test_a_new_checkpoint_takes_the_place_of_the_old(tmp_path):
    save_small(tmp_path, 0)
    (tmp_path / "notes.txt").write_text("mine")
    first = {path.name for path in tmp_path.iterdir()}
    state = save_small(tmp_path, 1)
    second = {path.name for path in tmp_path.iterdir()}
    assert len(first) == len(second) == 4 and first & second == {"checkpoint.json", "notes.txt"}
    assert torch.equal(checkpoint.load(tmp_path)[0].tok_emb.weight, state.model.tok_emb.weight)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_breaks_off_anywhere_leaves_a_whole_checkpoint(tmp_path, monkeypatch, call):
    old = save_small(tmp_path / "run", 0)
    new = save_small(tmp_path / "other", 1)
    honest, interrupted = getattr(os, call), 0
    for n_allowed in range(20):
        directory = tmp_path / f"copy{n_allowed}"
        shutil.copytree(tmp_path / "run", directory)
        left = [n_allowed]

        def breaks(*args, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return honest(*args)

        monkeypatch.setattr(checkpoint_files.os, call, breaks)
        try:
            checkpoint.save(directory, new, TOKENIZER)
            whole = [new]
        except KeyboardInterrupt:
            interrupted += 1
            whole = [old, new]
        finally:
            monkeypatch.setattr(checkpoint_files.os, call, honest)
        got = checkpoint.load(directory)[0].tok_emb.weight
        assert any(torch.equal(got, state.model.tok_emb.weight) for state in whole)
        checkpoint.save(directory, new, TOKENIZER)
        assert torch.equal(checkpoint.load(directory)[0].tok_emb.weight, new.model.tok_emb.weight)
        assert len(list(directory.iterdir())) == 3, "what the broken write left behind is gone"
        if whole == [new]:
            break
    assert interrupted >= 3


def test_weights_changed_between_two_trainings_are_kept(tmp_path):
    state = save_small(tmp_path)
    with torch.no_grad():
        state.model.tok_emb.weight.zero_()
    checkpoint.save(tmp_path, state, TOKENIZER)
    assert not checkpoint.load(tmp_path)[0].tok_emb.weight.any()
    train(state.model, counting_batches(torch.Generator()), state=state, steps=3)
    assert float(state.model.tok_emb.weight.detach().abs().max()) < 0.01
