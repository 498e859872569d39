r"""Join the processes that torchrun has started."""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from minillm.training.distributed.ranks import PARALLEL, Ranks

PATIENCE = 3.0  # seconds


@contextmanager
def joined(parallel: str | None, device: str, words: Sequence[str]) -> Iterator[tuple[Ranks, str]]:
    r"""Inside, this process can talk to the others of its run: with gloo, and between GPUs with NCCL.

    Args:
        parallel: `ddp` or `fsdp`; None = this process is the only one.
        device: `cpu` or `cuda`; one process alone may have any.
        words: of the command that was given, from `train` on: for the message that says how to start it.
    Returns: the processes, and this one's device, such as `cuda:1`.
    Raises:
        ValueError: if torchrun is needed and was not used, or the other way round, or there are too few GPUs.
    Source: PyTorch documentation, torchrun (Elastic Launch).
    Lesson: 08.
    """
    launched = dist.is_available() and dist.is_torchelastic_launched()
    if parallel is None:
        if launched:
            raise ValueError(f"torchrun has started several processes, and each would train for itself; add --parallel "
                             f"with one of {[*PARALLEL]}, or start without torchrun")
        yield Ranks(), device
        return
    _check(parallel, device, launched, words)
    if device == "cuda":
        device = f"cuda:{dist.get_node_local_rank()}"
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl")  # gloo for what stays on the CPU: the clock, checkpoints
    else:
        dist.init_process_group("gloo")
    ranks = Ranks(parallel, dist.get_rank(), dist.get_world_size())
    try:
        yield ranks, device
        ranks.wait()  # whoever leaves first would break the connections of the rest
    except ValueError:
        if ranks.rank > 0:
            time.sleep(PATIENCE)  # mostly all fail alike: the first says so, and torchrun ends those who would repeat
        raise
    finally:
        dist.destroy_process_group()


def torchrun_command(words: Sequence[str]) -> str:
    r"""The command that starts minillm in several processes: one for each GPU, or two where there is none.

    Args:
        words: what follows `minillm`.
    Returns: a line for a shell.
    Lesson: 08.
    """
    return f"torchrun --nproc-per-node {torch.cuda.device_count() or 2} -m minillm {shlex.join(words)}"


def _check(parallel: str, device: str, launched: bool, words: Sequence[str]) -> None:
    if parallel not in PARALLEL:
        raise ValueError(f"--parallel {parallel}: use one of {[*PARALLEL]}")
    if not launched:
        raise ValueError(f"--parallel {parallel}: torchrun has to start the processes; use\n"
                         f"    {torchrun_command(words)}\n"
                         "(across machines see torchrun --help: --nnodes, --rdzv-endpoint)")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device}: several processes can train on cpu or cuda; use --device cpu")
    if device == "cuda" and dist.get_node_local_rank() >= torch.cuda.device_count():
        raise ValueError(f"--device cuda: this machine has fewer GPUs than torchrun has started processes; use "
                         f"--nproc-per-node {torch.cuda.device_count()}")
