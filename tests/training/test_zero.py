r"""ZeRO's stages against torch's AdamW on the whole batch in one process; bytes against what one counts beforehand."""

from dataclasses import replace

import pytest
import torch

from minillm.config import Rope
from minillm.training import collectives, zero, zero_run
from minillm.training.wires import run_ranks
from tests.training.parallel_cases import parallel_config, uneven_batch, whole_loss, whole_model


def unsharded(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    losses = []
    for batch in batches:
        loss = whole_loss(model, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_shards_of_a_vector_move_as_the_whole_does(fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    for n_ranks, n_numbers in ((1, 5), (2, 7), (3, 9), (4, 10)):
        start = torch.randn(n_numbers, generator=g, dtype=torch.float64)
        grads = torch.randn(5, n_ranks, n_numbers, generator=g, dtype=torch.float64)
        whole = start.clone().requires_grad_()
        optimizer = torch.optim.AdamW([whole], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.3)
        for grad in grads.sum(1):
            whole.grad = grad.clone()
            optimizer.step()

        def work(wire, start=start, grads=grads):
            size = collectives.share_size(start.numel(), wire.n_ranks)
            weights, averages = start, (torch.zeros(size).double(), torch.zeros(size).double())
            for step in range(5):
                weights, *averages = zero.zero1_shard(
                    weights, grads[step, wire.rank], *averages, step + 1, 0.1, wire.rank, wire.n_ranks,
                    lambda x: collectives.reduce_scatter(x, wire), lambda x: collectives.all_gather(x, wire), 0.3)
            return weights, averages, wire.sent.total()

        for weights, averages, sent in run_ranks(work, n_ranks):
            torch.testing.assert_close(weights, whole.detach(), rtol=1e-9, atol=1e-9)
            size = -(-n_numbers // n_ranks)
            assert all(average.shape == (size,) for average in averages)
            assert sent == 5 * 2 * (n_ranks - 1) * size * 8  # as much as an all-reduce of the gradient


@pytest.mark.parametrize(
    ("n_ranks", "changes"), [(3, {"tie_embeddings": False}), (2, {"tie_embeddings": True, "position": Rope()})]
)
def test_every_stage_equals_unsharded_adamw(n_ranks, changes, fresh_seed):
    model, weights = whole_model(fresh_seed, **changes)
    start = zero.flat_weights(list(model.parameters()))
    batches = [uneven_batch(fresh_seed + i) for i in range(3)]
    losses, want = unsharded(model, batches)
    found = run_ranks(zero_run.all_stages, n_ranks, model.config, weights, batches, 1e-2)
    for stage in zero.STAGES:
        for reports in found:
            assert reports[stage].losses == pytest.approx(losses, rel=1e-4)
            # Not weight by weight: Adam takes a full step for a gradient that is nothing but rounding.
            assert (reports[stage].weights - want).norm() < 2e-3 * (want - start).norm()
    bits = [found[0][stage].weights for stage in (0, 1)]
    assert torch.equal(*bits), "stage 1 does the arithmetic of stage 0"


def test_bytes_kept_and_sent_are_those_of_the_formula(fresh_seed):
    n_ranks, n_steps = 4, 2
    model, weights = whole_model(fresh_seed, tie_embeddings=False)
    n = sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.numel() % n_ranks == 0 for parameter in model.parameters()), "so that nothing is padded"
    batches = [uneven_batch(fresh_seed + i) for i in range(n_steps)]
    reports = run_ranks(zero_run.all_stages, n_ranks, model.config, weights, batches, 1e-2)[n_ranks - 1]
    once = (n_ranks - 1) * n * 4 * n_steps // n_ranks
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    for stage, sent in enumerate(({"gradients": 2 * once}, *[{"gradients": once, "weights": once}] * 2,
                                  {"gradients": once, "weights": 2 * once})):
        kept = zero.zero_bytes(n, n_ranks, stage, 4, 4, 8)
        assert {**reports[stage].kept, "total": sum(reports[stage].kept.values())} == kept
        assert {name: reports[stage].sent[name] for name in sent} == sent
        assert reports[stage].most_gathered == (4 * block if stage == 3 else 0)


def test_formula_gives_the_numbers_of_the_paper():
    # Rajbhandari et al. 2019, figure 1: 7.5 billion weights, 64 ranks.
    gigabytes = [zero.zero_bytes(7_500_000_000, 64, stage)["total"] / 1e9 for stage in zero.STAGES]
    assert [round(number, 1) for number in gigabytes] == [120.0, 31.4, 16.6, 1.9]
    with pytest.raises(ValueError, match="stage=4: use 0"):
        zero.zero_bytes(10, 2, 4)


def test_bad_input_is_refused():
    config = parallel_config()
    with pytest.raises(ValueError, match="stage=5: use 0"):
        run_ranks(zero_run.train_with_zero, 1, config, {}, [], 5, 1e-2)
    with pytest.raises(ValueError, match="config.dropout=0.1: use 0"):
        run_ranks(zero_run.train_with_zero, 1, replace(config, dropout=0.1), {}, [], 3, 1e-2)
