r"""The kernel never hangs: idle, forked, interrupted, with more threads than cores, beside others. In processes
of their own, which a deadlock would keep until the time is up."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.inference.fast.kernel_models import skip_without_kernel
from tests.repo.project import ROOT

SECONDS = 120  # what takes two is stuck after that, however busy the machine
START = """
import os, signal, sys, threading, time
import numpy as np, torch
from tests.inference.fast.kernel_models import kernel_llama, steps
from minillm.inference.fast.kernel_decoder import KernelDecoder
model = kernel_llama(4, "int4")
token_ids = torch.randint(model.config.vocab_size, (1, 24), generator=torch.Generator().manual_seed(0))
decoder = KernelDecoder(model, {n_threads})
wanted = steps(decoder, token_ids)
def same(): return torch.equal(steps(decoder, token_ids), wanted)
"""
WAYS = {
    "idle": "time.sleep(1.5); assert same(); time.sleep(0.5); assert same()",
    "many threads": "assert all(same() for _ in range(5))",
    "made and dropped": """
        for n_threads in range(1, 30):
            other = KernelDecoder(model, n_threads)
            if n_threads % 2:
                steps(other, token_ids[:, :3])
            del other
        assert same()
        """,
    "fork": """
        child = os.fork()
        if child == 0:
            os._exit(0 if same() and decoder.n_threads == {n_threads} else 3)
        assert same() and os.waitpid(child, 0)[1] == 0
        """,
    "fork while another thread writes": """
        stop = threading.Event()
        def write():
            while not stop.is_set(): steps(decoder, token_ids)
        writer = threading.Thread(target=write); writer.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if same() else 3)
            assert os.waitpid(child, 0)[1] == 0
        stop.set(); writer.join()
        """,
    "beside numpy and torch": """
        stop = threading.Event()
        def busy(product):
            while not stop.is_set(): product()
        a, b = np.ones((256, 256), np.float32), torch.ones(256, 256)
        others = [threading.Thread(target=busy, args=(p,)) for p in (lambda: a @ a, lambda: b @ b)]
        for other in others: other.start()
        assert all(same() for _ in range(5))
        stop.set()
        for other in others: other.join()
        """,
    "interrupts": """
        inside, n_interrupts, stop = False, 0, threading.Event()
        def interrupt(*_):
            global inside
            if inside:
                inside = False
                raise KeyboardInterrupt
        def send():
            while not stop.wait(0.02): os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGINT, interrupt)
        sender = threading.Thread(target=send); sender.start()
        while n_interrupts < 5:
            try:
                inside = True
                steps(decoder, token_ids)
                inside = False
            except KeyboardInterrupt:
                n_interrupts += 1
        stop.set(); sender.join()
        assert same()
        """,
}


@pytest.fixture(autouse=True)
def kernel():
    r"""Nothing here runs without it; it is built before the clocks start."""
    skip_without_kernel()


def started(ways, n_threads):
    r"""A process that does one after the other."""
    if any("fork" in way for way in ways) and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    script = "\n".join([START, *(textwrap.dedent(WAYS[way]) for way in ways)]).replace("{n_threads}", str(n_threads))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], env=environment, cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def require_success(process):
    r"""It comes to its end in time, and what it asserted holds."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, output


@pytest.mark.parametrize(("ways", "n_threads"), [
    (("idle", "made and dropped", "beside numpy and torch", "interrupts"), 3),
    (("fork", "fork while another thread writes"), 2)], ids=str)
def test_it_goes_on(ways, n_threads):
    require_success(started(ways, n_threads))


def test_several_processes_at_once_with_more_threads_than_cores():
    for process in [started(["many threads"], n_threads) for n_threads in (4, 48)]:
        require_success(process)
