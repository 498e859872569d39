r"""The ledger against sums that one can do by hand, and against torch's own counter of operations."""

import time

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minillm.course.ledger import KernelClock, LargestTensor, MemoryLedger, kept_for_backward


def test_bytes_alive_at_one_time():
    x = torch.zeros(100)
    with MemoryLedger() as ledger:
        a = x + 1  # 400 bytes
        b = torch.cat([a, a])  # 800 more
        del a
        c = b.view(2, 100).transpose(0, 1)  # a view takes nothing
        d = c.sum()  # 4
        del b, c
        e = x.double()  # 800, while only d is left
    assert ledger.peak_bytes == 400 + 800
    assert ledger.largest == 200
    assert d.item() == 200 and e.dtype == torch.float64


def test_what_dies_at_once_counts_while_it_lives():
    with MemoryLedger() as ledger:
        for _ in range(5):
            torch.ones(1000).sum()
    assert ledger.peak_bytes == 4004


def test_a_change_in_place_is_no_new_tensor():
    x = torch.zeros(50)
    with MemoryLedger() as ledger:
        x += 1
        x[:3].mul_(2)
    assert ledger.peak_bytes == 0


def test_operations_are_those_that_torch_counts(fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    x = torch.randn(3, 5, 7, generator=g).requires_grad_()
    w, b = (torch.randn(*size, generator=g).requires_grad_() for size in ((4, 7), (4,)))

    def work():
        F.linear(x @ x.mT @ x, w, b).relu().sum().backward()

    with MemoryLedger() as ledger:
        work()
    with FlopCounterMode(display=False) as counter:
        work()
    assert ledger.flops == counter.get_total_flops() > 0
    with MemoryLedger() as ledger:
        torch.ones(5, 7) @ torch.ones(7, 4)
    assert ledger.flops == 2 * 5 * 7 * 4


def test_kept_for_backward_counts_each_storage_once():
    x, w = torch.ones(10, 8).requires_grad_(), torch.ones(8, 6).requires_grad_()
    with kept_for_backward() as kept:
        h = x @ w  # keeps x and w
        h.exp() * 2  # keeps its result, 240 bytes
    assert kept == {"bytes": 320 + 192 + 240, "largest": 80}
    with kept_for_backward() as kept, torch.no_grad():
        x @ w
    assert kept == {"bytes": 0, "largest": 0}


def test_largest_tensor_that_a_call_gives():
    x = torch.ones(1000)
    with LargestTensor() as largest:
        a = torch.ones(20) + 1
        assert largest.numbers == 20
        a[None].expand(50, 20)  # a view takes nothing
        assert largest.numbers == 20
        x[3:5].view(2, 1)
        assert largest.numbers == 20
        (a[:, None] * a).sum()
    assert largest.numbers == 400, "x was there before"
    assert len(x) == 1000


def test_the_clock_names_the_kernels_of_both_passes():
    x, w = torch.ones(4, 3), torch.ones(3, 2, requires_grad=True)
    before = time.perf_counter()
    with KernelClock() as clock:
        (x @ w).softmax(-1).square().sum().backward()
    taken = time.perf_counter() - before
    assert {"mm", "_softmax", "_softmax_backward_data"} <= clock.seconds.keys()
    assert all(seconds > 0 for seconds in clock.seconds.values()) and sum(clock.seconds.values()) <= taken
