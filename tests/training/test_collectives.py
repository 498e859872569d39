r"""Collectives against sums and concatenations in one place, for ranks and lengths that do not fit each other."""

import pytest
import torch

from minillm.training import collectives
from minillm.training.wires import run_ranks


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
def test_collectives_equal_sum_and_concatenation(n_ranks, fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    for n_numbers in (1, n_ranks, int(torch.randint(2, 40, (), generator=g))):
        xs = torch.randn(n_ranks, n_numbers, 1, generator=g, dtype=torch.float64)

        def work(wire, xs=xs):
            x = xs[wire.rank]
            shares = collectives.reduce_scatter(x, wire), collectives.own_share(x, wire.rank, n_ranks)
            half = wire.sent.total()
            gathered = collectives.all_gather(torch.full((2,), float(wire.rank)), wire)
            return *shares, gathered, collectives.all_reduce(x, wire), half

        found = run_ranks(work, n_ranks)
        size = -(-n_numbers // n_ranks)
        want = torch.cat([xs.sum(0).flatten(), torch.zeros(n_ranks * size - n_numbers, dtype=torch.float64)])
        for rank, (summed, own, gathered, everything, sent) in enumerate(found):
            stretch = slice(rank * size, (rank + 1) * size)
            torch.testing.assert_close(summed, want[stretch], rtol=1e-12, atol=1e-12)
            assert torch.equal(own[: max(0, n_numbers - rank * size)], xs[rank].flatten()[stretch])
            assert gathered.tolist() == [float(r) for r in range(n_ranks) for _ in range(2)]
            torch.testing.assert_close(everything, xs.sum(0), rtol=1e-12, atol=1e-12)
            assert torch.equal(everything, found[0][3]), "the same to the last bit on all ranks"
            assert sent == (n_ranks - 1) * size * 8


def test_all_reduce_sends_two_shares_of_every_n():
    def work(wire):
        collectives.all_reduce(torch.ones(120), wire)
        return wire.sent.total()

    assert [run_ranks(work, n)[0] for n in (1, 2, 3, 4)] == [0, 480, 640, 720]  # 2 (n - 1) / n times 480
