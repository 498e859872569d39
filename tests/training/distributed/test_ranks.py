r"""One process's view of all: rows, shares, and what it refuses."""

import pytest
import torch

from minillm.training import accumulation
from minillm.training.distributed.ranks import Ranks
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from tests.training.small import counting_batches, small_model


def test_rows_and_shares_of_all_make_the_whole(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    world_size = int(torch.randint(2, 5, (), generator=generator))
    batch = next(counting_batches(generator, 3 * world_size))
    everyone = [Ranks("ddp", rank, world_size) for rank in range(world_size)]
    own = [ranks.rows(batch) for ranks in everyone]
    assert all(ids.shape == (3, 10) == targets.shape for ids, targets in own)
    for part in range(2):
        rows = [tuple(row.tolist()) for shared in own for row in shared[part]]
        assert sorted(rows) == sorted(tuple(row.tolist()) for row in batch[part])
    n_targets = accumulation.count_targets(batch[1])
    shares = [ranks.share([rows], n_targets) for ranks, rows in zip(everyone, own, strict=True)]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0
    counts = [accumulation.count_targets(targets) for _, targets in own]
    assert shares == pytest.approx([count / n_targets for count in counts])


def test_one_process_keeps_everything_to_itself():
    batch, alone = next(counting_batches(torch.Generator().manual_seed(0))), Ranks()
    assert alone.rows(batch) is batch and alone.share([batch], 5) == 1.0 and alone.first("x") == "x"
    assert float(alone.total(torch.tensor(2.0, requires_grad=True))) == 2.0
    alone.wait()


@pytest.mark.parametrize(("arguments", "message"), [
    (("zero", 0, 2), "parallel='zero': use one of"), ((None, 0, 2), "2 processes need 'ddp' or 'fsdp'"),
    (("ddp", 2, 2), "rank=2: use 0 to 1"), (("fsdp", -1, 2), "rank=-1"),
])  # fmt: skip
def test_ranks_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ranks(*arguments)


def test_compiling_is_for_one_process():
    with pytest.raises(ValueError, match="compile=True: does not go together with parallel='fsdp'"):
        TrainingState(small_model(0), Recipe(compile=True), Ranks("fsdp", 0, 2))
