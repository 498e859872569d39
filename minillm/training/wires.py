r"""Ranks that talk to each other, as processes or as threads, and a count of every byte that one of them sends."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from minillm.training.processes import run_processes

PATIENCE = 30.0  # seconds that a thread waits for a message
OVER = None  # what a rank that has failed leaves in every letter box


class Wire:
    r"""What connects one rank to the others: it sends, receives, and counts what it has sent.

    `sent` maps a purpose to bytes; `counting` names the purpose.

    Args:
        rank: of its owner, from 0.
        n_ranks: how many there are.
        post: (tensor, to) -> function that waits until the tensor has left.
        fetch: (buffer, source) -> the tensor that came, of the buffer's shape and dtype.
    Lesson: 08.
    """

    def __init__(
        self,
        rank: int,
        n_ranks: int,
        post: Callable[[Tensor, int], Callable[[], Any]],
        fetch: Callable[[Tensor, int], Tensor],
    ):
        self.rank, self.n_ranks = rank, n_ranks
        self.sent: Counter[str] = Counter()
        self._post, self._fetch, self._purpose = post, fetch, "all"

    @contextmanager
    def counting(self, purpose: str) -> Iterator[None]:
        r"""Inside, what is sent counts under a name of its own.

        Args:
            purpose: the name, such as `gradients`.
        """
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self._purpose = before

    def send(self, x: Tensor, to: int) -> Callable[[], Any]:
        r"""Begin to send a tensor; messages from one rank to another arrive in the order they were sent.

        Args:
            x: any shape and dtype; it must not change until it has left.
            to: the rank that gets it.
        Returns: a function that waits until it has left.
        """
        self.sent[self._purpose] += x.nbytes
        return self._post(x.detach().contiguous(), to)

    def receive(self, like: Tensor, source: int) -> Tensor:
        r"""Wait for a tensor.

        Args:
            like: a tensor of the shape and dtype that will come; its numbers do not matter.
            source: the rank that sends it.
        Returns: what came, a new tensor.
        """
        return self._fetch(torch.empty(like.shape, dtype=like.dtype, device=like.device), source)

    def pass_on(self, x: Tensor) -> Tensor:
        r"""Hand a tensor to the next rank of the ring, and take what the rank before hands on.

        Args:
            x: of the same shape and dtype on all ranks.
        Returns: the tensor of the rank before.
        """
        wait = self.send(x, (self.rank + 1) % self.n_ranks)
        came = self.receive(x, (self.rank - 1) % self.n_ranks)
        wait()
        return came


def run_ranks(
    function: Callable[..., Any], n_ranks: int, *args: Any, processes: bool = False, timeout: int | float = 60.0
) -> list[Any]:
    r"""Call function(wire, *args) once for each rank, all at the same time, and gather what they return.

    As threads the ranks share memory and start at once, and the function may be written in a notebook. As processes
    they share nothing, as on several machines, and every byte goes through the network interface.

    Args:
        function: gets a `Wire` first; for processes one that is defined in a module.
        n_ranks: how many, at least 1.
        args: the same for all ranks; no rank may change them.
        processes: whether each rank is a process of its own.
        timeout: seconds that processes may take.
    Returns: what the function returned, in the order of the ranks.
    Raises:
        ValueError: if n_ranks is less than 1.
    Lesson: 08.
    """
    if n_ranks < 1:
        raise ValueError(f"n_ranks={n_ranks}: use 1 or more")
    if processes:
        return run_processes(on_wire, n_ranks, function, *args, timeout=timeout)
    return _run_threads(function, n_ranks, args)


def run_in_turn(wire: Wire, *calls: tuple[Callable[..., Any], tuple[Any, ...]]) -> list[Any]:
    r"""Several functions over one wire, so that processes are started once.

    Args:
        wire: to the other ranks; it counts anew for each function.
        calls: pairs of a function and its arguments after the wire.
    Returns: what the functions returned.
    Lesson: 08.
    """
    results = []
    for function, args in calls:
        wire.sent.clear()
        results.append(function(wire, *args))
    return results


def on_wire(rank: int, n_ranks: int, function: Callable[..., Any], *args: Any) -> Any:
    r"""What each process does: connect, and call the function.

    Args:
        rank: of this process.
        n_ranks: how many there are.
        function: called as function(wire, *args).
        args: handed on.
    Returns: what the function returns.
    Lesson: 08.
    """
    return function(process_wire(rank, n_ranks), *args)


def process_wire(rank: int, n_ranks: int) -> Wire:
    r"""A wire over torch.distributed, whose processes must have been joined to a group.

    Args:
        rank: of this process.
        n_ranks: how many there are.
    Returns: the wire.
    Lesson: 08.
    """

    def fetch(buffer: Tensor, source: int) -> Tensor:
        dist.recv(buffer, source)
        return buffer

    return Wire(rank, n_ranks, lambda x, to: dist.isend(x, to).wait, fetch)


def _run_threads(function: Callable[..., Any], n_ranks: int, args: tuple[Any, ...]) -> list[Any]:
    ranks = range(n_ranks)
    boxes = {(source, to): queue.SimpleQueue() for source in ranks for to in ranks}
    results: list[Any] = [None] * n_ranks
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = function(_thread_wire(rank, n_ranks, boxes), *args)
        except BaseException as error:
            failures.append(error)
            for to in ranks:
                boxes[rank, to].put(OVER)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]  # the first in time: the others failed because it did
    return results


def _thread_wire(rank: int, n_ranks: int, boxes: dict[tuple[int, int], queue.SimpleQueue]) -> Wire:
    def post(x: Tensor, to: int) -> Callable[[], Any]:
        boxes[rank, to].put(x.clone())
        return lambda: None

    def fetch(buffer: Tensor, source: int) -> Tensor:
        try:
            came = boxes[source, rank].get(timeout=PATIENCE)
        except queue.Empty:
            raise TimeoutError(f"rank {rank} has waited {PATIENCE:g} seconds for rank {source}, which sends nothing: "
                               "let all ranks make the same exchanges in the same order") from None
        if came is OVER:
            raise RuntimeError(f"rank {source} has failed, and rank {rank} was waiting for it")
        if came.shape != buffer.shape or came.dtype != buffer.dtype:
            raise ValueError(f"rank {rank} expects {tuple(buffer.shape)} {buffer.dtype} from rank {source} and gets "
                             f"{tuple(came.shape)} {came.dtype}: let all ranks exchange tensors of one shape and dtype")
        return came

    return Wire(rank, n_ranks, post, fetch)
