r"""Ranks as threads: messages in order, bytes counted, failures told."""

import pytest
import torch

from minillm.training import wires
from minillm.training.wires import run_ranks


def test_tensors_go_round_and_bytes_are_counted_by_purpose():
    def work(wire):
        with wire.counting("round"):
            came = [wire.pass_on(torch.full((3,), wire.rank + 10.0 * i, dtype=torch.float64)) for i in range(2)]
        wire.pass_on(torch.zeros(5, dtype=torch.int32))
        return [int(x[0]) for x in came], dict(wire.sent)

    found = run_ranks(work, 3)
    assert [came for came, _ in found] == [[2, 12], [0, 10], [1, 11]]
    assert all(sent == {"round": 2 * 3 * 8, "all": 5 * 4} for _, sent in found)


def test_what_arrives_is_a_copy():
    def work(wire):
        own = torch.full((2,), float(wire.rank))
        came = wire.pass_on(own)
        came += 100
        wire.pass_on(own)
        return own.tolist()

    assert run_ranks(work, 2) == [[0, 0], [1, 1]]


def test_the_first_failure_is_told_and_nobody_waits_for_ever():
    def work(wire):
        if wire.rank == 1:
            raise KeyError("no such thing")
        return wire.receive(torch.zeros(1), 1)

    with pytest.raises(KeyError, match="no such thing"):
        run_ranks(work, 3)


def test_ranks_that_do_not_agree_are_told_so(monkeypatch):
    monkeypatch.setattr(wires, "PATIENCE", 0.2)
    with pytest.raises(TimeoutError, match="rank 0 has waited .* for rank 1.*same exchanges"):
        run_ranks(lambda wire: wire.pass_on(torch.zeros(1)) if wire.rank == 0 else None, 2)
    with pytest.raises(ValueError, match=r"expects \(\d,\) .* and gets \(\d,\)"):
        run_ranks(lambda wire: wire.pass_on(torch.zeros(wire.rank + 1)), 2)
    with pytest.raises(ValueError, match="n_ranks=0: use 1 or more"):
        run_ranks(lambda wire: None, 0)
