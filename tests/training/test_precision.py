r"""Number formats: what `auto` chooses, the loss scale, and master weights in float32."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers import paths
from minillm.training import precision
from minillm.training.flat import FlatWeights
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from tests.training.small import counting_batches, small_model

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(("speedup", "chosen"), [(0.5, "fp32"), (1.1, "fp32"), (1.5, "bf16"), (6.8, "bf16")])
def test_auto_on_a_cpu_goes_by_the_trial(monkeypatch, speedup, chosen):
    monkeypatch.setattr(precision, "cpu_speedup", lambda dtype: speedup)
    assert precision.resolve_dtype("auto", CPU) == chosen
    with paths.plain_path():
        assert precision.resolve_dtype("auto", CPU) == "fp32"
        assert precision.resolve_dtype("bf16", CPU) == "bf16"


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu_goes_by_its_abilities(monkeypatch, has_bf16, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert precision.resolve_dtype("auto", CUDA) == chosen
    assert precision.resolve_dtype("auto", MPS) == "fp32"


def test_the_trial_returns_a_ratio_and_unknown_names_are_refused():
    assert precision.cpu_speedup(torch.bfloat16) > 0
    with pytest.raises(ValueError, match="dtype='int8': use one of"):
        precision.resolve_dtype("int8", CPU)


@given(overflows=st.lists(st.booleans(), max_size=60), interval=st.integers(1, 5))
def test_the_loss_scale_halves_and_doubles(overflows, interval):
    scale, good = 1024.0, 0
    for i, overflow in enumerate(overflows):
        scale, good = precision.loss_scale_step(scale, good, overflow, interval)
        exponent, run = 10, 0  # told again from the beginning
        for past in overflows[: i + 1]:
            run = 0 if past else run + 1
            exponent += -1 if past else 1 if run == interval else 0
            run = run % interval
        assert scale == 2.0**exponent and good == run


def test_finite_or_not():
    good = torch.ones(3)
    assert precision.all_finite([good, good])
    for bad in (float("inf"), float("-inf"), float("nan")):
        assert not precision.all_finite([good, torch.tensor([1.0, bad])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_model_computes_with_a_copy_and_gets_its_masters_back(fresh_seed, dtype):
    model = small_model(fresh_seed)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = FlatWeights(model)
    with weights.attached(dtype):
        assert all(p.dtype == dtype for p in model.parameters())
        assert model.lm_head.weight is model.tok_emb.weight
        weights.zero_gradients()
        model(torch.tensor([[3, 4, 5]])).float().sum().backward()
        weights.collect_gradients()
        assert float(torch.cat(weights.gradients()).norm()) > 0
        step = 2.0**-12  # lost if added to 1 in bf16 or fp16
        for master in weights.masters.values():
            master.data += step
        weights.publish()
        assert torch.equal(model.final_norm.weight, torch.full((16,), 1 + step).to(dtype))
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32 and p.grad is None
        assert torch.equal(p, before[name] + step), name
        assert torch.equal(weights.named_masters()[name], p)


def test_gradients_of_micro_batches_add_up_in_float32():
    model = small_model(0)
    weights = FlatWeights(model)
    with weights.attached(torch.bfloat16):
        weights.zero_gradients()
        for value in (1.0, 2.0**-10, 2.0**-10):  # in bf16, 1 + 2^-10 is 1
            for p in model.parameters():
                p.grad = torch.full_like(p, value)
            weights.collect_gradients()
        assert all(bool((grad == 1 + 2.0**-9).all()) for grad in weights.gradients())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gradient_may_be_added_straight_into_the_vectors(fresh_seed, dtype):
    model = small_model(fresh_seed)
    generator = torch.Generator().manual_seed(fresh_seed)
    weights = FlatWeights(model)
    parameters = dict(model.named_parameters())
    by_hand = dict(list(parameters.items())[::2])  # the others get theirs from torch
    by_name = {name: weights.gradient_of(p) for name, p in parameters.items()}
    assert all(grad.shape == parameters[name].shape for name, grad in by_name.items())
    with weights.attached(dtype):
        for _ in range(2):  # nothing is left of the step before
            weights.zero_gradients()
            want = {name: torch.zeros(p.shape) for name, p in parameters.items()}
            for _ in range(3):  # micro-batches
                drawn = {name: torch.randint(-9, 9, p.shape, generator=generator) for name, p in parameters.items()}
                for name, p in parameters.items():
                    want[name] += drawn[name]
                    if name in by_hand:
                        weights.gradient_of(p).add_(drawn[name])
                sum((p * drawn[name]).sum() for name, p in parameters.items() if name not in by_hand).backward()
                assert dtype == torch.float32 or all(p.grad is None for p in by_hand.values())
                weights.collect_gradients()
        assert all(torch.equal(by_name[name], grad) for name, grad in want.items())
        got = torch.cat(weights.gradients())
        assert got.dtype == torch.float32 and got.numel() == sum(p.numel() for p in parameters.values())
        assert float(got.double().sum()) == sum(float(grad.double().sum()) for grad in want.values())
    assert all(p.grad is None for p in parameters.values())


def test_only_what_is_trained_has_a_collected_gradient():
    model = small_model(0)
    model.tok_emb.weight.requires_grad_(False)
    weights = FlatWeights(model)
    for stranger in (model.tok_emb.weight, small_model(0).final_norm.weight):
        with pytest.raises(ValueError, match=r"parameter of shape \(1.*\): is not trained by these weights"):
            weights.gradient_of(stranger)


def test_a_model_that_is_not_float32_is_refused():
    with pytest.raises(ValueError, match="tok_emb.weight is torch.bfloat16; train a float32 model"):
        FlatWeights(small_model(0).bfloat16())


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_every_format_learns(fresh_seed, dtype):
    model = small_model(fresh_seed)
    losses = []

    class Watch:
        def on_step(self, info):
            losses.append(info["loss"])

    recipe = Recipe(dtype=dtype, learning_rate=1e-2, warmup_steps=5)
    state = train(model, counting_batches(torch.Generator().manual_seed(fresh_seed), 16), recipe, steps=150,
                  callbacks=[Watch()])
    assert state.dtype == dtype
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0], losses[::10]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_fp16_overflow_skips_the_step_and_halves_the_scale():
    model = small_model(1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batches = counting_batches(torch.Generator().manual_seed(1))
    state = train(model, batches, Recipe(dtype="fp16"), steps=1)
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state.loss_scale = 2.0**40  # no fp16 gradient survives this
    train(model, batches, state=state, steps=2)
    assert state.loss_scale == 2.0**39 and state.good_steps == 0 and state.step == 2
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
