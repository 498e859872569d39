r"""How many threads to compute with: a second one helps only if there is a core free for it."""

import time

import torch

TRIAL = 0.08  # seconds


def use_fastest_threads() -> int:
    r"""Try this moment's number of threads against a single one, and stay with the faster.

    Threads that share a matrix product wait for the slowest of them. On a machine that is busy with other things one of
    two is often not running at all, and both together can be many times slower than one alone.

    Returns: the number of threads that torch now uses.
    Lesson: 08.
    """
    most = torch.get_num_threads()
    rounds = {n_threads: _rounds(n_threads) for n_threads in {most, 1}}
    fastest = most if rounds[most] >= rounds[1] else 1
    torch.set_num_threads(fastest)
    return fastest


def _rounds(n_threads: int) -> int:
    torch.set_num_threads(n_threads)
    x, weight = torch.ones(2048, 128), torch.ones(128, 512)
    x @ weight  # the first one starts the threads
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < TRIAL:
        (x @ weight).relu()
        rounds += 1
    return rounds
