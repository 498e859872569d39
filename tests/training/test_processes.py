r"""Several processes: results in order, errors with their traceback, and nobody left behind."""

import pickle

import psutil
import pytest
import torch
import torch.distributed as dist

from minillm.training.processes import run_processes
from tests.training import workers


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def nobody_is_left():
    before = children()
    yield
    assert children() <= before


def test_results_come_in_order_and_processes_talk():
    results = run_processes(workers.add_up, 2, torch.arange(4.0))
    assert [result[:2] for result in results] == [(0, 2), (1, 2)]
    for _, _, total, n_threads in results:
        assert torch.equal(total, 3 * torch.arange(4.0)) and n_threads == 1
    assert not dist.is_initialized(), "only the processes join a group, not the one that starts them"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", ["process 1 of 2 failed", "KeyError: 'no such thing'", "in fail_in_the_second"]),
        ("die", ["process 1 of 2 ended with code 7", "the second says goodbye"]),
        ("exit", ["process 1 of 2 failed", "SystemExit: 3"]),
    ],
)
def test_the_process_that_failed_first_is_named(how, words):
    with pytest.raises(RuntimeError) as caught:
        run_processes(workers.fail_in_the_second, 2, how)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_processes_that_hang_are_ended_and_say_where_they_stood(tmp_path):
    with pytest.raises(TimeoutError, match=r"(?s)after 1 seconds.*process 0 wrote.*in sleep_for_ever"):
        run_processes(workers.sleep_for_ever, 1, str(tmp_path), timeout=1)
    assert not psutil.pid_exists(int((tmp_path / "pid0").read_text()))


def test_a_result_that_cannot_be_sent_back_is_an_error_with_its_reason():
    with pytest.raises(RuntimeError, match="(?s)process 0 of 1 failed.*pickle"):
        run_processes(workers.unsendable, 1)


def test_what_cannot_be_sent_to_a_process_is_refused_at_once():
    with pytest.raises(ValueError, match="cannot be sent to another process.*top of a module"):
        run_processes(lambda rank, n: rank, 2)
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        run_processes(workers.add_up, 2, (line for line in "ab"))
    script = type(workers.add_up)(workers.add_up.__code__, {}, "add_up")
    script.__module__ = "__main__"
    with pytest.raises(ValueError, match="function=add_up is defined in a notebook or script.*put it into a module"):
        run_processes(script, 2)
    with pytest.raises(ValueError, match="n_processes=0"):
        run_processes(workers.add_up, 0)
    with pytest.raises(ValueError, match="timeout=0"):
        run_processes(workers.add_up, 1, timeout=0)
    assert pickle.loads(pickle.dumps(workers.add_up)) is workers.add_up
