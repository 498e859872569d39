r"""Gradients of ranks with unequally many targets against the gradient of the whole batch."""

import pytest
import torch

from minillm.training import data_parallel
from minillm.training.data_parallel import nccl_all_reduce
from minillm.training.processes import run_processes
from minillm.training.wires import run_ranks
from tests.training.parallel_cases import VOCAB, one_gradient, uneven_batch, whole_loss, whole_model


def flat(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_ranks_together_equal_the_whole_batch(n_ranks, fresh_seed):
    model, weights = whole_model(fresh_seed)
    batch = uneven_batch(fresh_seed, n_rows=7)
    loss = whole_loss(model, *batch)
    loss.backward()
    found = run_ranks(one_gradient, n_ranks, model.config, weights, batch)
    for rank_loss, gradient, _ in found:
        assert rank_loss == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(gradient, flat(model), rtol=1e-4, atol=1e-6)
        assert torch.equal(gradient, found[0][1])


def test_mean_of_the_means_is_another_gradient(fresh_seed):
    model, weights = whole_model(fresh_seed)
    batch = uneven_batch(fresh_seed)
    whole_loss(model, *batch).backward()
    want, means = flat(model), []
    for rank in range(2):
        model.zero_grad()
        whole_loss(model, batch[0][3 * rank : 3 * rank + 3], batch[1][3 * rank : 3 * rank + 3]).backward()
        means.append(flat(model))
    assert (sum(means) / 2 - want).norm() > 0.05 * want.norm()


def test_a_rank_without_targets_adds_nothing(fresh_seed):
    model, weights = whole_model(fresh_seed)
    token_ids, targets = uneven_batch(fresh_seed)
    targets[1::2] = -100
    loss = whole_loss(model, token_ids, targets)
    loss.backward()
    found = run_ranks(one_gradient, 2, model.config, weights, (token_ids, targets))
    assert found[1][0] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(found[1][1], flat(model), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="every target of every rank is -100"):
        run_ranks(one_gradient, 2, model.config, weights, (token_ids, torch.full_like(targets, -100)))


def test_rows_are_dealt_out_once():
    token_ids = torch.arange(7)[:, None] % VOCAB
    shares = [data_parallel.own_rows(token_ids, token_ids + 1, rank, 3) for rank in range(3)]
    assert sorted(int(i) for ids, _ in shares for i in ids) == list(range(7))
    assert all(torch.equal(targets, ids + 1) for ids, targets in shares)
    with pytest.raises(ValueError, match="2 rows for 3 ranks"):
        data_parallel.own_rows(token_ids[:2], token_ids[:2], 0, 3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL joins GPUs, and this needs two")
def test_our_ring_and_nccl_agree():
    assert run_processes(nccl_all_reduce, 2, 1001) == [(True, 2 * 501 * 4)] * 2
