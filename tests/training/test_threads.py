r"""The number of threads is chosen among those that there may be, and stays chosen."""

import pytest
import torch

from minillm.training import threads


@pytest.mark.parametrize(("with_all", "with_one", "chosen"), [(5, 9, 1), (9, 5, 2), (7, 7, 2)])
def test_the_faster_number_stays(monkeypatch: pytest.MonkeyPatch, with_all: int, with_one: int, chosen: int):
    monkeypatch.setattr(threads, "_rounds", lambda n_threads: with_one if n_threads == 1 else with_all)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert threads.use_fastest_threads() == chosen == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_a_trial_does_something():
    before = torch.get_num_threads()
    try:
        assert threads._rounds(1) >= 1
    finally:
        torch.set_num_threads(before)
