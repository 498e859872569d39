r"""Our AdamW against torch's, step by step and over a whole run."""

import pytest
import torch

from minillm.layers import paths
from minillm.training import adamw
from minillm.training.loop import train
from minillm.training.optimizer import PlainAdamW
from minillm.training.recipe import Recipe
from tests.training.small import counting_batches, small_model


@pytest.mark.parametrize("dtype, relative", [(torch.float32, 2e-5), (torch.float64, 1e-11)])
def test_steps_equal_torch(fresh_seed, dtype, relative):
    torch.manual_seed(fresh_seed)
    shape = tuple(torch.randint(1, 9, (3,)))
    settings = dict(betas=(0.7, 0.93), eps=1e-5, weight_decay=0.3)
    theirs = torch.nn.Parameter(torch.randn(shape, dtype=dtype))
    optimizer = torch.optim.AdamW([theirs], lr=0.02, foreach=False, fused=False, **settings)
    ours, first, second = theirs.detach().clone(), torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    for step in range(1, 12):
        theirs.grad = torch.randn(shape, dtype=dtype) * 10 ** torch.randn(())
        optimizer.step()
        before = [x.clone() for x in (ours, first, second)]
        new = adamw.adamw_step(ours, theirs.grad, first, second, step, 0.02, **settings)
        assert all(torch.equal(a, b) for a, b in zip(before, (ours, first, second), strict=True))
        ours, first, second = new
        torch.testing.assert_close(ours, theirs.detach(), rtol=relative, atol=relative)
        torch.testing.assert_close(second, optimizer.state[theirs]["exp_avg_sq"], rtol=relative, atol=0)


def test_first_step_is_one_learning_rate_whatever_the_gradient(fresh_seed):
    torch.manual_seed(fresh_seed)
    grad, zeros = torch.randn(50, dtype=torch.float64) * 10 ** torch.randn(50).double(), torch.zeros(50).double()
    moved, _, _ = adamw.adamw_step(zeros, grad, zeros, zeros, 1, 0.01, eps=1e-30, weight_decay=0.0)
    torch.testing.assert_close(moved, -0.01 * grad.sign())


def test_a_run_on_the_plain_path_learns_as_the_fused_one(fresh_seed):
    losses = []
    for plain in (False, True):
        model, batches = small_model(fresh_seed), counting_batches(torch.Generator().manual_seed(fresh_seed))
        seen = []
        watch = type("Watch", (), {"on_step": lambda self, info, seen=seen: seen.append(info["loss"])})()
        if plain:
            with paths.plain_path():
                state = train(model, batches, Recipe(dtype="fp32", warmup_steps=2), steps=20, callbacks=[watch])
            assert isinstance(state.optimizer, PlainAdamW)
        else:
            train(model, batches, Recipe(dtype="fp32", warmup_steps=2), steps=20, callbacks=[watch])
        losses.append(seen)
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=2e-3, atol=2e-3)


def test_step_zero_is_refused():
    zeros = torch.zeros(2)
    with pytest.raises(ValueError, match="step=0"):
        adamw.adamw_step(zeros, zeros, zeros, zeros, 0, 0.1)
