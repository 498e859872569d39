r"""Activation checkpointing: the same losses and gradients, and far less kept."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from minillm.config import Alibi, Experts, Glu, Mla, Norm, Rope, Shaw, T5Bias
from minillm.course.ledger import MemoryLedger, kept_for_backward
from minillm.training import accumulation, recompute
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from tests.training.small import counting_batches, small_model

MODELS = {
    "learned positions": {},
    "rope, GLU, RMS, shared keys": dict(position=Rope(), ffn=Glu(24), norm=Norm("rms"), n_kv_heads=1),
    "alibi, post-norm": dict(position=Alibi(), residual="post"),
    "T5's biases": dict(position=T5Bias()),
    "Shaw's vectors": dict(position=Shaw()),
    "latent keys": dict(position=Rope(), attention=Mla(4, 4)),
    "dropout": dict(dropout=0.3),
}


def loss_and_gradients(model, batch, active):
    model.train().zero_grad()
    torch.manual_seed(1)  # of dropout
    with recompute.recomputed_blocks(model, active):
        loss = accumulation.batch_loss(model, *batch)
        after = torch.rand(())
        loss.backward()
    return loss.detach(), after, [p.grad.clone() for p in model.parameters()], torch.rand(())


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_losses_gradients_and_random_numbers_are_the_same_to_the_bit(fresh_seed, changes):
    model = small_model(fresh_seed, n_layers=3, **changes)
    batch = next(counting_batches(torch.Generator().manual_seed(fresh_seed)))
    plain, recomputed = (loss_and_gradients(model, batch, active) for active in (False, True))
    for index in (0, 1, 3):
        assert torch.equal(plain[index], recomputed[index])
    for want, got in zip(plain[2], recomputed[2], strict=True):
        assert torch.equal(want, got)


def test_the_model_is_itself_again_afterwards():
    model = small_model(0, n_layers=2)
    with pytest.raises(KeyError), recompute.recomputed_blocks(model):
        assert all("forward" in vars(block) for block in model.blocks)
        raise KeyError
    assert not any("forward" in vars(block) for block in model.blocks)


def test_generation_with_a_cache_is_left_alone():
    model = small_model(1, n_layers=2)
    ids = torch.arange(3, 9)[None]
    with recompute.recomputed_blocks(model):
        cached = model(ids, cache=model.new_cache(1, 6))  # with gradients: an append must not happen twice
        with torch.no_grad():
            without = model(ids)
    assert torch.equal(cached, model(ids)) and torch.equal(without, model(ids).detach())


def test_a_block_keeps_its_input_and_no_more(fresh_seed):
    model = small_model(fresh_seed, n_layers=6, d_model=32, head_dim=16)
    ids, targets = next(counting_batches(torch.Generator().manual_seed(fresh_seed), batch_size=8))
    kept, peaks = {}, {}
    for active in (False, True):
        with recompute.recomputed_blocks(model, active), kept_for_backward(but_not=model.parameters()) as count:
            accumulation.batch_loss(model, ids, targets)
        kept[active] = count["bytes"]
        with recompute.recomputed_blocks(model, active), MemoryLedger() as ledger:
            accumulation.batch_loss(model, ids, targets).backward()
        peaks[active] = ledger.peak_bytes
        model.zero_grad()
    inputs = 6 * ids.numel() * 32 * 4
    ends = ids.numel() * (2 * 32 * 4 + 19 * 4 + 40)  # final norm and head; log-probabilities; indices, statistics
    assert inputs <= kept[True] <= inputs + ends and kept[False] > 4 * kept[True]
    assert peaks[True] < 0.6 * peaks[False]


def test_a_single_function_agrees_with_torch_s_own(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    layer = nn.Sequential(nn.Linear(5, 9), nn.GELU(), nn.Dropout(0.5), nn.Linear(9, 5))
    x = torch.randn(7, 5, generator=generator)
    wanted = []
    for run in (lambda x: checkpoint(layer, x, use_reentrant=True),
                lambda x: recompute.recompute(layer, x, list(layer.parameters()))):
        torch.manual_seed(fresh_seed)
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        run(leaf).square().sum().backward()
        wanted.append([leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    for want, got in zip(*wanted, strict=True):
        assert torch.equal(want, got)


def test_autocast_is_repeated(fresh_seed):
    layer = nn.Linear(16, 16)
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(fresh_seed))
    dtypes = []

    def noted(x):
        dtypes.append(layer(x).dtype)
        return layer(x)

    with torch.autocast("cpu", torch.bfloat16):
        out = recompute.recompute(noted, x, list(layer.parameters()))
    out.float().sum().backward()
    assert dtypes == [torch.bfloat16] * 2


def test_frozen_weights_and_inputs_without_gradient_are_left_alone():
    layer = nn.Linear(4, 4)
    layer.bias.requires_grad_(False)
    x = torch.randn(2, 4)
    recompute.recompute(layer, x, [layer.weight]).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(4, 4)) and layer.bias.grad is None and x.grad is None


def test_what_would_be_silently_wrong_is_refused():
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="rest holds a tensor"):
        recompute.recompute(lambda x, y: layer(x + y), torch.ones(4), [], torch.ones(4, requires_grad=True))
    model = small_model(0, ffn=Experts(2, 1, 8))
    with pytest.raises(ValueError, match="mixture of experts"), recompute.recomputed_blocks(model):
        pass
    with recompute.recomputed_blocks(model, active=False):
        model(torch.arange(3, 9)[None])


def test_sharded_weights_are_refused():
    model = small_model(0)
    next(model.parameters()).full_tensor = lambda: None  # what a parameter has that fully_shard has cut up
    with pytest.raises(ValueError, match="sharded"), recompute.recomputed_blocks(model):
        pass


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_training_run_ends_in_the_same_weights(dtype):
    ends = []
    for active in (False, True):
        model = small_model(3, n_layers=2)
        batches = counting_batches(torch.Generator().manual_seed(3))
        train(model, batches, Recipe(dtype=dtype, recompute=active, accumulation=2), steps=5)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)
    with pytest.raises(ValueError, match="recompute"):
        Recipe(recompute=True, compile=True)
