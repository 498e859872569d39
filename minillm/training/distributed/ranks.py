r"""What the training loop knows of the other processes: its rows, sums over all of them, and the word of the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from minillm.config.require import require
from minillm.training import accumulation, data_parallel
from minillm.training.accumulation import MicroBatch

PARALLEL = ("ddp", "fsdp")


@dataclass(frozen=True)
class Ranks:
    r"""One of the processes that train one model together; by default the only one, which talks to nobody.

    All of them call `total`, `first` and `wait` at the same places, or they wait for each other for ever. So nothing
    that only one of them knows (its clock, its chance) may decide how the loop goes on: ask the first.

    Args:
        parallel: `ddp`: each process has all weights; `fsdp`: each has its piece of every weight; None: one process.
        rank: number of this process, from 0.
        world_size: how many processes there are.
    Raises:
        ValueError: if parallel is unknown, or rank is not below world_size.
    Lesson: 08.
    """

    parallel: str | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self):
        require(self.parallel in (None, *PARALLEL), "parallel", self.parallel, f"use one of {[*PARALLEL]}, or None")
        require(0 <= self.rank < self.world_size, "rank", self.rank, f"use 0 to {self.world_size - 1}")
        require(self.parallel is not None or self.world_size == 1, "parallel", self.parallel,
                f"{self.world_size} processes need 'ddp' or 'fsdp'")

    def rows(self, batch: MicroBatch) -> MicroBatch:
        r"""This process's rows of a batch that all processes have drawn alike.

        Args:
            batch: token ids and targets, (B, T).
        Returns: token ids and targets, (B / world_size, T).
        Raises:
            ValueError: on all processes alike, if the rows cannot be shared out, or one process has nothing to learn.
        """
        if self.world_size == 1:
            return batch
        if len(batch[0]) % self.world_size:
            raise ValueError(f"batches: one has {len(batch[0])} rows, which {self.world_size} processes cannot share "
                             f"evenly; use a batch_size that is a multiple of {self.world_size}")
        shares = [data_parallel.own_rows(*batch, rank, self.world_size) for rank in range(self.world_size)]
        for rank, (_, targets) in enumerate(shares):
            if accumulation.count_targets(targets) == 0:
                raise ValueError(f"batches: the rows of process {rank} hold no counted target, every one is -100; use "
                                 "a larger batch_size or fewer processes")
        return shares[self.rank]

    def share(self, own: Sequence[MicroBatch], n_targets: int) -> float:
        r"""How much of a step's loss is this process's.

        Args:
            own: its rows of all batches of the step.
            n_targets: counted targets of all processes in the step.
        Returns: the part of the targets that is in its rows, 0 to 1.
        """
        if self.world_size == 1:
            return 1.0
        return sum(accumulation.count_targets(targets) for _, targets in own) / n_targets

    def total(self, x: Tensor) -> Tensor:
        r"""The sum of one tensor over all processes.

        Args:
            x: of the same shape everywhere.
        Returns: the sum, without gradient.
        """
        if self.world_size == 1:
            return x.detach()
        x = x.detach().clone()
        dist.all_reduce(x)
        return x

    def first(self, value: Any) -> Any:
        r"""What the first process has, for all.

        Args:
            value: plain data; only that of process 0 counts.
        Returns: the value of process 0.
        """
        if self.world_size == 1:
            return value
        if isinstance(value, float):  # asked for after every step: quicker than any object
            number = torch.tensor([value], dtype=torch.float64)
            dist.broadcast(number, 0)
            return number.item()
        values = [value]
        dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        return values[0]

    def wait(self) -> None:
        r"""Go on when all have come here."""
        self.total(torch.zeros(()))
