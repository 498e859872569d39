r"""The loop: when it stops, what it reports, and that it is the textbook loop."""

import io
from functools import partial
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from minillm.training import compiling, limits
from minillm.training.callbacks import EverySeconds, History, ProgressBar
from minillm.training.limits import Limits
from minillm.training.loop import train
from minillm.training.optimizer import decay_groups
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from tests.training.small import counting_batches, small_model

FP32 = Recipe(dtype="fp32", warmup_steps=3)


def batches(seed=0):
    return counting_batches(torch.Generator().manual_seed(seed))


class Clock:
    r"""A clock that only goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(limits.time, "perf_counter", lambda: self.now)

    def ticking(self, pairs, seconds):
        r"""The same batches, each of which takes so many seconds to come."""
        for pair in pairs:
            self.now += seconds
            yield pair


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_it_is_the_textbook_loop(fresh_seed, schedule):
    recipe = Recipe(dtype="fp32", warmup_steps=3, schedule=schedule, max_norm=0.5, weight_decay=0.3, accumulation=2)
    ours, theirs = small_model(fresh_seed), small_model(fresh_seed)
    train(ours, batches(fresh_seed), recipe, steps=8)

    names = decay_groups(theirs)
    parameters = dict(theirs.named_parameters())
    groups = [{"params": [parameters[n] for n in names[0]], "weight_decay": 0.3},
              {"params": [parameters[n] for n in names[1]], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    stream = batches(fresh_seed)
    for step in range(8):
        ids, targets = (torch.cat(parts) for parts in zip(*islice(stream, 2), strict=True))
        F.cross_entropy(theirs(ids).flatten(0, 1), targets.flatten(), ignore_index=-100).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step, 8)
        optimizer.step()
        optimizer.zero_grad()
    for (name, got), want in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-5, msg=name)


def test_it_stops_after_its_steps_and_tells_each(fresh_seed):
    history = History()
    state = train(small_model(fresh_seed), batches(), FP32, steps=7, callbacks=[history])
    assert [info["step"] for info in history.steps] == list(range(1, 8)) and state.step == 7
    assert [info["progress"] for info in history.steps] == pytest.approx([i / 7 for i in range(1, 8)])
    assert [info["learning_rate"] for info in history.steps] == [FP32.lr_at(i, 7) for i in range(7)]
    counted = [int((targets >= 0).sum()) for _, targets in islice(batches(), 7)]
    assert [info["tokens"] for info in history.steps] == [sum(counted[:i]) for i in range(1, 8)]
    seconds = [info["seconds"] for info in history.steps]
    assert seconds == sorted(seconds) and seconds[0] > 0
    for info in history.steps:
        assert info["tokens_per_s"] == pytest.approx(info["tokens"] / info["seconds"])
        assert info["grad_norm"] > 0 and info["loss"] > 0


def test_it_stops_before_its_seconds_are_over(monkeypatch):
    clock, history = Clock(monkeypatch), History()
    state = train(small_model(0), clock.ticking(batches(), 2.0), FP32, seconds=9.0, callbacks=[history])
    assert state.step == 4 and state.seconds == 8.0, "a fifth step would have ended after 10 seconds"
    assert [info["progress"] for info in history.steps] == [2 / 9, 4 / 9, 6 / 9, 1.0]


def test_the_first_step_is_always_taken(monkeypatch):
    clock = Clock(monkeypatch)
    assert train(small_model(0), clock.ticking(batches(), 50.0), FP32, seconds=9.0).step == 1


def test_a_slow_start_does_not_end_the_run(monkeypatch):
    clock = Clock(monkeypatch)

    def slow_then_fast():
        yield from clock.ticking(islice(batches(), 1), 30.0)  # compiling, say
        yield from clock.ticking(batches(), 1.0)

    assert train(small_model(0), slow_then_fast(), FP32, seconds=50.0).step == 21
    clock = Clock(monkeypatch)
    assert train(small_model(0), slow_then_fast(), FP32, seconds=29.0).step == 1


def test_the_learning_rate_comes_down_with_the_clock(monkeypatch):
    clock, history = Clock(monkeypatch), History()
    recipe = Recipe(dtype="fp32", warmup_steps=0, decay_share=0.5, learning_rate=1e-3)
    train(small_model(0), clock.ticking(batches(), 1.0), recipe, seconds=10.0, callbacks=[history])
    got = [info["learning_rate"] for info in history.steps]
    assert got == pytest.approx([1e-3] * 6 + [8e-4, 6e-4, 4e-4, 2e-4])


def test_whichever_limit_comes_first(monkeypatch):
    clock = Clock(monkeypatch)
    assert train(small_model(0), clock.ticking(batches(), 1.0), FP32, steps=3, seconds=50.0).step == 3
    assert train(small_model(0), clock.ticking(batches(), 1.0), FP32, steps=90, seconds=5.0).step == 5


def test_batches_may_run_out():
    history = History()
    recipe = Recipe(dtype="fp32", accumulation=2)
    assert train(small_model(0), islice(batches(), 5), recipe, steps=100, callbacks=[history]).step == 3
    assert history.steps[-1]["step"] == 3
    assert train(small_model(0), [], FP32, steps=3).step == 0


def test_two_halves_are_one_run(fresh_seed):
    whole, halves = small_model(fresh_seed), small_model(fresh_seed)
    train(whole, batches(1), FP32, steps=9)
    stream = batches(1)
    state = TrainingState(halves, FP32)
    train(halves, islice(stream, 4), state=state, steps=9)
    assert state.step == 4
    train(halves, stream, state=state, steps=9)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_callbacks_have_only_the_methods_that_they_want():
    told = []

    class Ends:
        def on_start(self, info):
            told.append(("start", info))
            info.clear()  # a copy: others do not suffer

        def on_end(self, info):
            told.append(("end", info))

    model = small_model(0)
    train(model, batches(), FP32, steps=2, callbacks=[Ends(), object(), Ends()])
    assert [event for event, _ in told] == ["start", "start", "end", "end"]
    n_params = sum(p.numel() for p in model.parameters())
    assert told[-1][1]["step"] == 2
    expected = {"n_params": n_params, "n_trained": n_params, "dtype": "fp32", "device": "cpu", "step": 0,
                "max_steps": 2, "max_seconds": None}
    starts = []
    start = type("Start", (), {"on_start": lambda self, info: starts.append(info)})()
    train(model, batches(), FP32, steps=2, callbacks=[start])
    assert expected.items() <= starts[0].items()


def test_reports_can_be_rarer_but_the_last_step_is_told():
    history = History()
    train(small_model(0), batches(), FP32, steps=8, callbacks=[history], report_every=3)
    assert [info["step"] for info in history.steps] == [3, 6, 8]


def test_evaluation_runs_in_evaluation_mode_and_joins_the_info():
    model, seen, history = small_model(0, dropout=0.5), [], History()

    def evaluate():
        seen.append((model.training, torch.is_grad_enabled()))
        return {"validation_loss": float(len(seen))}

    train(model, batches(), FP32, steps=7, callbacks=[history], evaluate=evaluate, evaluate_every=3, report_every=100)
    assert seen == [(False, False)] * 2
    assert [(info["step"], info.get("validation_loss")) for info in history.steps] == [(3, 1.0), (6, 2.0), (7, None)]
    assert not model.training


def test_errors_say_what_to_do():
    model = small_model(0)
    with pytest.raises(ValueError, match="steps=None, seconds=None: give at least one"):
        train(model, batches(), FP32)
    state = train(model, batches(), FP32, steps=2)
    with pytest.raises(ValueError, match="steps=2: the run has had 2 steps; use a larger total"):
        train(model, batches(), state=state, steps=2)
    with pytest.raises(ValueError, match="seconds=1e-09: the run has had"):
        train(model, batches(), state=state, seconds=1e-9)
    with pytest.raises(ValueError, match="state belongs to another model"):
        train(small_model(1), batches(), state=state, steps=9)
    with pytest.raises(ValueError, match="leave recipe out"):
        train(model, batches(), Recipe(dtype="bf16"), state=state, steps=9)
    with pytest.raises(ValueError, match="evaluate=None"):
        train(model, batches(), FP32, steps=9, evaluate_every=1)
    with torch.no_grad():
        model.tok_emb.weight[0] = float("nan")
    with pytest.raises(ValueError, match="the loss is nan after step 1: use a smaller learning_rate"):
        train(model, batches(), FP32, steps=9)
    assert model.tok_emb.weight.dtype == torch.float32 and not model.training


@pytest.mark.parametrize(("setting", "value"), [
    ("learning_rate", 0.0), ("warmup_steps", -1), ("schedule", "steps"), ("decay_share", 0.0), ("floor", 1.5),
    ("betas", (0.9, 1.0)), ("weight_decay", -0.1), ("max_norm", 0.0), ("accumulation", 0), ("dtype", "int8"),
])  # fmt: skip
def test_a_recipe_names_the_setting_that_is_wrong(setting, value):
    with pytest.raises(ValueError, match=f"^{setting}="):
        Recipe(**{setting: value})


def test_a_recipe_survives_json():
    recipe = Recipe(learning_rate=1e-3, betas=(0.8, 0.9), schedule="cosine", accumulation=3)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ValueError, match="not a recipe"):
        Recipe.from_dict({"speed": 3})


def test_the_bar_shows_the_distance_to_the_floor():
    screen = io.StringIO()
    train(small_model(0), batches(), FP32, steps=20, callbacks=[ProgressBar(floor=1.0, file=screen)])
    assert "100%" in screen.getvalue() and "nats/token over the floor" in screen.getvalue()
    screen = io.StringIO()
    train(small_model(0), batches(), FP32, steps=20, callbacks=[ProgressBar(file=screen)])
    assert "step 20, loss" in screen.getvalue()


def test_every_so_many_seconds(monkeypatch):
    clock, calls = Clock(monkeypatch), []
    every = EverySeconds(3, lambda: calls.append(clock.now - 100))
    train(small_model(0), clock.ticking(batches(), 1.0), FP32, steps=10, callbacks=[every])
    assert calls == [3.0, 6.0, 9.0]


def test_limits_need_a_limit():
    with pytest.raises(ValueError, match="training would never end"):
        Limits(None, None, TrainingState(small_model(0), FP32))


def test_a_compiled_loop_computes_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced as ever, built at once
    eager, compiled_model = small_model(3), small_model(3)
    train(eager, batches(), FP32, steps=3)
    train(compiled_model, batches(), Recipe(dtype="fp32", warmup_steps=3, compile=True), steps=3)
    for a, b in zip(eager.parameters(), compiled_model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_without_a_compiler_compile_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no C\\+\\+ compiler found; train without it"):
        train(small_model(0), batches(), Recipe(compile=True, dtype="fp32"), steps=1)
    assert compiling.compiled(len, torch.device("cuda")) is not None
