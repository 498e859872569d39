r"""Our kernel as a part of a run: the run is the same, asks for it only where it is wanted, and says what is wrong."""

import sys

import pytest
import torch

from minillm.config import Glu, Norm, Rope, preset
from minillm.model.gpt import GPT
from minillm.training import checkpoint
from minillm.training.callbacks import History
from minillm.training.distributed.ranks import Ranks
from minillm.training.loop import train
from minillm.training.own_kernel import kernel_obstacle
from minillm.training.recipe import Recipe
from tests.training.small import counting_batches, save_small, small_model
from tests.training.standing_in import stand_in


def batches(seed):
    return counting_batches(torch.Generator().manual_seed(seed))


# The second one learns in leaps, so that roundings grow: after 40 steps bf16 itself may be far from fp32.
FORMS = {"tiny": (40, {}), "rope, GLU, RMS, shared keys": (
    12, dict(position=Rope(), ffn=Glu(192), norm=Norm("rms"), n_kv_heads=2))}


@pytest.mark.parametrize(("steps", "changes"), FORMS.values(), ids=FORMS)
def test_a_run_ends_where_it_does_without_the_kernel(fresh_seed, steps, changes):
    losses = {}
    for kernel in (False, True):
        generator = torch.Generator().manual_seed(fresh_seed)
        model = GPT(preset("tiny", vocab_size=32, max_seq_len=48, **changes), generator)
        if (obstacle := kernel_obstacle(model, "bf16")) is not None:
            pytest.skip(obstacle)
        history = History()
        recipe = Recipe(dtype="bf16", learning_rate=1e-3, warmup_steps=10, kernel=kernel)
        train(model, progressions(generator), recipe, steps=steps, callbacks=[history])
        losses[kernel] = [info["loss"] for info in history.steps]
    assert losses[True] != losses[False], "the kernel was not asked"
    ends = [sum(losses[kernel][-3:]) / 3 for kernel in (False, True)]
    # Over 100 seeds the standard deviation of their difference is 4.5e-4, the largest 1.6e-3.
    assert abs(ends[1] - ends[0]) < 0.005 and ends[0] < 0.5 * losses[False][0]


def progressions(generator):
    r"""Rows that count up by 1, 2, 3 or 4, modulo 32."""
    while True:
        starts, strides = (torch.randint(*of, (4, 1), generator=generator) for of in ((0, 32), (1, 5)))
        rows = (starts + strides * torch.arange(49)) % 32
        yield rows[:, :-1], rows[:, 1:]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_that_are_added_straight_make_the_same_run(monkeypatch, fresh_seed, accumulation):
    blocks = stand_in(monkeypatch)
    ends = []
    for kernel in (False, True):
        model = small_model(fresh_seed, n_layers=2)
        recipe = Recipe(dtype="bf16", kernel=kernel, accumulation=accumulation, warmup_steps=0)
        train(model, batches(fresh_seed), recipe, steps=4)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)
    assert blocks.n_calls == 2 * 4 * accumulation
    assert not any("forward" in vars(block) for block in model.blocks)


def test_what_it_computes_and_what_it_leaves_is_counted(monkeypatch, fresh_seed):
    stand_in(monkeypatch)
    model = small_model(fresh_seed, n_layers=2)
    pairs = [next(batches(fresh_seed)) for _ in range(3)]
    pairs[1] = tuple(rows[:, :5] for rows in pairs[1])  # too short for it
    state = train(model, pairs, Recipe(dtype="bf16", kernel=True), steps=1)
    assert dict(state.passes) == {"kernel": 2}
    train(model, pairs[1:], steps=3, state=state)
    assert dict(state.passes) == {"kernel": 2, "PyTorch": 2}, "since it was last taken up"
    assert not train(small_model(fresh_seed), pairs, Recipe(dtype="bf16"), steps=1).passes


def test_nobody_imports_the_kernel_who_does_not_ask_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "minillm.training.fast", None)
    train(small_model(0), batches(0), Recipe(dtype="bf16"), steps=1)
    with pytest.raises(ImportError):
        train(small_model(0), batches(0), Recipe(dtype="bf16", kernel=True), steps=1)


def test_what_cannot_be_is_refused_with_the_reason(monkeypatch):
    stand_in(monkeypatch, lambda: "there is no compiler")
    model = small_model(0)
    with pytest.raises(ValueError, match="kernel=True: there is no compiler; train with kernel=False"):
        train(model, batches(0), Recipe(dtype="bf16", kernel=True), steps=1)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    assert "in one process, and parallel='ddp'" in kernel_obstacle(model, "bf16", Ranks("ddp", 1, 2))
    for other in ({"compile": True}, {"recompute": True}):
        with pytest.raises(ValueError, match="kernel=True: goes together with neither compile nor recompute"):
            Recipe(kernel=True, **other)


def test_the_recipe_of_a_checkpoint_says_so(tmp_path, monkeypatch):
    assert Recipe.from_dict(Recipe(kernel=True).to_dict()).kernel
    old = Recipe(accumulation=2).to_dict()
    del old["kernel"]
    assert Recipe.from_dict(old) == Recipe(accumulation=2)
    monkeypatch.setattr(Recipe, "to_dict", lambda recipe: old | {"dtype": "fp32"})  # as before there was a kernel
    save_small(tmp_path)
    state, _, _ = checkpoint.resume(tmp_path, generator=torch.Generator())
    assert state.recipe == Recipe(dtype="fp32", accumulation=2)
