r"""What needs no gradient is not touched: not by the optimizer, not by weight decay, not by a pass in 16 bits."""

import pytest
import torch
import torch.nn.functional as F

from minillm import tuning
from minillm.inference.quantization.convert import quantize_model
from minillm.training import checkpoint
from minillm.training.flat import FlatWeights
from minillm.training.loop import train
from minillm.training.optimizer import decay_groups
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from minillm.tuning.qlora import with_nf4_base
from tests.training.small import counting_batches, small_model, small_tokenizer

STEPS = 6


def batches(seed):
    return counting_batches(torch.Generator().manual_seed(seed))


def tuned_model(seed, base=None):
    return tuning.lora(base or small_model(seed), rank=2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_small_part_is_trained_and_the_base_keeps_its_numbers_and_its_memory(fresh_seed, dtype):
    base = small_model(fresh_seed)
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in base.named_parameters()}
    model = tuned_model(fresh_seed, base)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    state = train(model, batches(fresh_seed), Recipe(dtype=dtype, warmup_steps=0, weight_decay=0.5), steps=STEPS)
    for name, p in base.named_parameters():
        assert p.data_ptr() == before[name][0] and torch.equal(p, before[name][1]), name
    shared = {p.data_ptr() for p in base.parameters()}
    trained = dict(model.named_parameters())
    assert {name for name, p in trained.items() if p.data_ptr() not in shared} == set(fresh)
    assert all(p.dtype == torch.float32 and p.grad is None for p in trained.values())
    assert all(not torch.equal(trained[name], old) for name, old in fresh.items())
    held = sum(memory["exp_avg"].numel() for memory in state.optimizer.state.values())
    assert held == sum(old.numel() for old in fresh.values())
    assert {name.removeprefix("exp_avg.") for name in state.tensors() if name.startswith("exp_avg.")} == set(fresh)
    assert {name.removeprefix("model.") for name in state.tensors() if name.startswith("model.")} == set(trained)


def test_it_is_the_textbook_loop_over_the_small_part(fresh_seed):
    recipe = Recipe(dtype="fp32", warmup_steps=2, max_norm=0.5, weight_decay=0.3)
    ours, theirs = tuned_model(fresh_seed), tuned_model(fresh_seed)
    train(ours, batches(fresh_seed), recipe, steps=STEPS)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], betas=recipe.betas,
                                  weight_decay=recipe.weight_decay)  # all are matrices
    for step, (ids, targets) in zip(range(STEPS), batches(fresh_seed), strict=False):
        F.cross_entropy(theirs(ids).flatten(0, 1), targets.flatten(), ignore_index=-100).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), recipe.max_norm)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
    for (name, got), want in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inside_everything_has_one_type_and_the_masters_are_not_rounded(fresh_seed, dtype):
    model = tuned_model(fresh_seed)
    want = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = FlatWeights(model)
    with pytest.raises(KeyError, match="stop"), weights.attached(dtype):
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert model.lm_head.weight is model.tok_emb.weight
        assert model(torch.tensor([[3, 4, 5]])).dtype == dtype
        assert all(torch.equal(kept, want[name]) for name, kept in weights.named_masters().items())
        raise KeyError("stop")
    assert {name: p.dtype for name, p in model.named_parameters()} == dict.fromkeys(want, torch.float32)
    assert all(torch.equal(p, want[name]) for name, p in model.named_parameters())
    assert set(weights.named_masters()) == set(want)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_base_of_16_bits_stays_one(fresh_seed, dtype):
    base = small_model(fresh_seed).bfloat16()
    model = tuned_model(fresh_seed, base)
    train(model, batches(fresh_seed), Recipe(dtype=dtype, warmup_steps=0), steps=2)
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    factors = [p for name, p in model.named_parameters() if name.endswith("lora_b")]
    assert all(p.dtype == torch.float32 and p.any() for p in factors)


@pytest.mark.parametrize("weights", ["int8", "int4", "nf4"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_base_of_few_bits_stays_one(fresh_seed, dtype, weights):
    plain = small_model(fresh_seed, d_model=32)
    base = with_nf4_base(plain, 32) if weights == "nf4" else quantize_model(plain, weights)
    model = tuned_model(fresh_seed, base)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    train(model, batches(fresh_seed), Recipe(dtype=dtype, warmup_steps=0), steps=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    factors = [p for name, p in model.named_parameters() if "lora_b" in name]
    assert all(p.dtype == torch.float32 and p.any() for p in factors)
    assert {module.dtype for module in model.modules() if hasattr(module, "dtype")} == {torch.float32}
    logits = model(torch.tensor([[3, 4, 5]]))
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all()


def test_recomputing_changes_nothing(fresh_seed):
    models = [tuned_model(fresh_seed) for _ in range(2)]
    for model, again in zip(models, (False, True), strict=True):
        train(model, batches(fresh_seed), Recipe(dtype="fp32", recompute=again), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_decay_is_for_what_is_trained():
    model = small_model(0)
    model.tok_emb.weight.requires_grad_(False)
    model.blocks[0].attn.q_proj.weight.requires_grad_(False)
    decayed, plain = decay_groups(model)
    frozen = {"tok_emb.weight", "blocks.0.attn.q_proj.weight"}
    assert not frozen & {*decayed, *plain}
    assert {*decayed, *plain} | frozen == {name for name, _ in model.named_parameters()}


def test_nothing_to_train_and_checkpoints_of_tuned_models_are_refused(tmp_path):
    model = small_model(0)
    with pytest.raises(ValueError, match=r"all of its parameters are frozen; train all of them after"):
        TrainingState(model.requires_grad_(False), Recipe(dtype="fp32"))
    state = TrainingState(tuned_model(0), Recipe(dtype="fp32"))
    with pytest.raises(ValueError, match=r"state.model: was tuned \(lora\).*minillm.tuning.save"):
        checkpoint.save(tmp_path / "run", state, small_tokenizer())
    assert not (tmp_path / "run").exists()
