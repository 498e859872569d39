r"""The parts of one step: clipping, accumulation, which weights decay, AdamW itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minillm.config import Glu, Rope
from minillm.layers import paths
from minillm.training.accumulation import accumulate, batch_loss, count_targets
from minillm.training.clipping import clip_by_norm, global_norm
from minillm.training.optimizer import decay_groups, make_adamw
from tests.training.small import counting_batches, small_model


@given(seed=st.integers(0, 2**31), max_norm=st.floats(1e-3, 1e3))
def test_clipping_equals_torch_s(seed, max_norm):
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (7,), (1, 1, 2))]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = [parameter.grad.clone() for parameter in parameters]
    got, norm = clip_by_norm([parameter.grad for parameter in parameters], max_norm)
    assert all(torch.equal(p.grad, b) for p, b in zip(parameters, before, strict=True)), "the arguments were changed"
    want_norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    torch.testing.assert_close(norm, want_norm)
    for grad, parameter in zip(got, parameters, strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-5, atol=1e-6)


def test_clipping_leaves_short_and_zero_gradients_alone():
    short, zero = torch.tensor([0.3, 0.4]), torch.zeros(3)
    assert torch.equal(clip_by_norm([short], 1.0)[0][0], short)
    assert torch.equal(clip_by_norm([short], math.inf)[0][0], short)
    assert torch.equal(clip_by_norm([zero], 1.0)[0][0], zero)
    assert global_norm([short, zero]).item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="max_norm=0"):
        clip_by_norm([short], 0.0)


def gradients(model, run):
    r"""The gradients that `run` leaves, flattened."""
    model.zero_grad()
    run()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("plain", [False, True])
def test_micro_batches_equal_the_big_batch_and_not_the_mean_of_means(fresh_seed, plain):
    model = small_model(fresh_seed).double()
    generator = torch.Generator().manual_seed(fresh_seed)
    micro = [next(counting_batches(generator, batch_size=size)) for size in (1, 3, 2)]
    micro[0][1][:, 1:] = -100  # one target here, many in the others
    micro.append((micro[0][0], torch.full_like(micro[0][1], -100)))  # and none here
    ids, targets = (torch.cat(parts) for parts in zip(*micro, strict=True))

    def mean_loss(token_ids, wanted):
        return F.cross_entropy(model(token_ids).flatten(0, 1), wanted.flatten(), ignore_index=-100)

    def ours(scale=1.0):
        if plain:
            with paths.plain_path():
                return accumulate(mean_loss, micro, scale)
        return accumulate(mean_loss, micro, scale)

    want = gradients(model, lambda: mean_loss(ids, targets).backward())
    got = gradients(model, ours)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradients(model, lambda: ours(8.0)), 8 * want, rtol=1e-9, atol=1e-11)
    naive = gradients(model, lambda: sum(mean_loss(*pair) for pair in micro[:3]).div(3).backward())
    assert (naive - want).norm() > 1e-3 * want.norm(), "the mean of means was right by chance: no test at all"

    loss, n_targets = accumulate(mean_loss, micro)
    assert n_targets == count_targets(targets) == int((targets >= 0).sum())
    assert loss.item() == pytest.approx(mean_loss(ids, targets).item()) and not loss.requires_grad


def test_without_a_counted_target_there_is_nothing_to_learn():
    ids = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="no counted target"):
        accumulate(lambda a, b: torch.zeros(()), [(ids, ids - 100)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_float32_and_the_same_on_both_paths(fresh_seed, dtype):
    model = small_model(fresh_seed).to(dtype)
    ids, targets = next(counting_batches(torch.Generator().manual_seed(fresh_seed)))
    fused = batch_loss(model, ids, targets)
    with paths.plain_path():
        plain = batch_loss(model, ids, targets)
    assert fused.dtype == plain.dtype == torch.float32
    torch.testing.assert_close(fused, plain, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5)


def test_matrices_decay_and_the_rest_does_not():
    tied = small_model(0)
    decayed, plain = decay_groups(tied)
    assert set(decayed) == {f"blocks.0.{name}.weight" for name in (
        "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "ffn.up_proj", "ffn.down_proj")}
    assert {"tok_emb.weight", "pos_emb.weight", "final_norm.weight"} <= set(plain)
    assert sorted(decayed + plain) == sorted(name for name, _ in tied.named_parameters())

    untied = small_model(0, tie_embeddings=False, position=Rope(), ffn=Glu(24, bias=True))
    decayed, plain = decay_groups(untied)
    assert "lm_head.weight" in decayed and "tok_emb.weight" in plain
    assert {name for name in plain if name.endswith("bias")} == {
        f"blocks.0.ffn.{name}.bias" for name in ("gate_proj", "up_proj", "down_proj")}
    assert all("bias" not in name and "norm" not in name for name in decayed)


def test_adamw_is_the_paper_s_algorithm(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    weights = [nn.Parameter(torch.randn(5, generator=generator)) for _ in range(2)]
    want = [weight.detach().double().clone() for weight in weights]
    optimizer = make_adamw(weights[:1], weights[1:], (0.8, 0.9), weight_decay=0.5)
    first, second = [torch.zeros(5).double() for _ in want], [torch.zeros(5).double() for _ in want]
    for t in range(1, 6):
        for i, weight in enumerate(weights):
            grad = torch.randn(5, generator=generator)
            weight.grad, grad = grad, grad.double()
            first[i] = 0.8 * first[i] + 0.2 * grad
            second[i] = 0.9 * second[i] + 0.1 * grad**2
            want[i] = want[i] * (1 - 0.01 * (0.5 if i == 0 else 0.0))
            want[i] -= 0.01 * (first[i] / (1 - 0.8**t)) / ((second[i] / (1 - 0.9**t)).sqrt() + 1e-8)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
    for weight, right in zip(weights, want, strict=True):
        torch.testing.assert_close(weight.detach().double(), right, rtol=1e-5, atol=1e-6)
