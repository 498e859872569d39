r"""Run a function in several processes of this machine that can talk to each other."""

import faulthandler
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LOOK_EVERY = 0.02  # seconds
GRACE = 5.0  # seconds after the time limit in which a process tells where it stood, and ends by itself
STARTING = 120.0  # seconds that the processes may take to import torch and find each other
LONGEST_LOG = 4000  # characters of what a failed process has printed
START = "import sys; from minillm.training.processes import run_child; run_child(sys.argv[1], int(sys.argv[2]))"


def run_processes(function: Callable[..., Any], n_processes: int, *args: Any, timeout: int | float = 60.0) -> list[Any]:
    r"""Call function(rank, n_processes, *args) in n_processes processes at once, and gather what they return.

    In each of them torch.distributed is ready to use, with the gloo backend over this machine's loopback (127.0.0.1):
    send, recv, all_reduce and the rest. Each computes with one thread. When one of them fails, the others are ended
    with it; none of them outlives the call.

    Args:
        function: defined in a module, because the processes import it by its name; not in a notebook or a script.
        n_processes: how many, at least 1.
        args: the same for all processes; picklable, as tensors are.
        timeout: seconds after which all are ended, counted from when all have started.
    Returns: what the function returned, in the order of the ranks.
    Raises:
        ValueError: if n_processes or timeout is too small, or the function cannot be sent to another process.
        RuntimeError: if a process failed, with its traceback.
        TimeoutError: if they did not come to an end, with the place where each of them stood.
    Lesson: 03, 08.
    """
    if n_processes < 1:
        raise ValueError(f"n_processes={n_processes}: use 1 or more")
    if timeout <= 0:
        raise ValueError(f"timeout={timeout}: give the processes some seconds")
    work = _packed(function, n_processes, args, timeout)
    with tempfile.TemporaryDirectory(prefix="minillm-processes-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "work").write_bytes(work)
        children: list[subprocess.Popen] = []
        try:
            for rank in range(n_processes):
                children.append(_start(folder, rank))
            return _gather(folder, children, timeout)
        finally:
            for child in children:
                child.kill()
            for child in children:
                child.wait()


def run_child(folder_name: str, rank: int) -> None:
    r"""What each process does: join the others, call the function, write down the result or the error.

    Args:
        folder_name: where the work lies and the outcome goes.
        rank: of this process.
    Lesson: 08.
    """
    folder = Path(folder_name)
    n_processes, timeout, call = pickle.loads((folder / "work").read_bytes())
    torch.set_num_threads(1)
    try:
        function, args = pickle.loads(call)
        store = dist.FileStore(str(folder / "store"), n_processes)
        limit = timedelta(seconds=STARTING)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=n_processes, timeout=limit)
        (folder / f"started{rank}").touch()
        # If it hangs, say where, and end; even if the one that waits for the outcome is no longer there.
        faulthandler.dump_traceback_later(timeout + GRACE / 2, exit=True)
        outcome = pickle.dumps(("value", function(rank, n_processes, *args)))
    except BaseException:
        _write_outcome(folder, rank, pickle.dumps(("error", (time.time(), traceback.format_exc()))))
        sys.exit(1)
    _write_outcome(folder, rank, outcome)
    dist.barrier()  # whoever leaves first would break the connections of the rest
    dist.destroy_process_group()


def _packed(function: Callable[..., Any], n_processes: int, args: tuple[Any, ...], timeout: int | float) -> bytes:
    name = getattr(function, "__qualname__", repr(function))
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(
            f"function={name} is defined in a notebook or script, which other processes cannot import; "
            "put it into a module (a .py file) and import it from there"
        )
    try:
        call = pickle.dumps((function, args))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"function={name} or its arguments cannot be sent to another process ({error}); use a function at the top "
            "of a module, and arguments such as tensors, numbers and strings"
        ) from error
    return pickle.dumps((n_processes, timeout, call))


def _start(folder: Path, rank: int) -> subprocess.Popen:
    # With the parent's import path a process finds the same modules; over the loopback nothing leaves the machine.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part or os.getcwd() for part in sys.path)}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    environment |= {"OMP_NUM_THREADS": "1"} | ({"GLOO_SOCKET_IFNAME": loopback} if loopback else {})
    with open(folder / f"log{rank}", "wb") as log:
        command = [sys.executable, "-c", START, str(folder), str(rank)]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _gather(folder: Path, children: list[subprocess.Popen], timeout: int | float) -> list[Any]:
    r"""Wait until every process has written its outcome, or one has failed, or the time is over."""
    ranks, outcomes = range(len(children)), [None] * len(children)
    end, started = time.monotonic() + STARTING, False
    while True:
        if not started and all((folder / f"started{rank}").exists() for rank in ranks):
            end, started = time.monotonic() + timeout, True
        late = time.monotonic() > end
        codes = [child.poll() for child in children]  # asked before the outcomes, which are written before the end
        outcomes = [outcomes[rank] or _read_outcome(folder, rank) for rank in ranks]
        running = [rank for rank in ranks if codes[rank] is None and outcomes[rank] is None]
        lost = [rank for rank in ranks if codes[rank] is not None and outcomes[rank] is None]
        failed = [(outcomes[rank][1], rank) for rank in ranks if outcomes[rank] and outcomes[rank][0] == "error"]
        if all(outcomes) and not failed:
            return [value for _, value in outcomes]
        if lost and not late:
            code = f"process {lost[0]} of {len(children)} ended with code {codes[lost[0]]}"
            raise RuntimeError("\n".join([code, *(_log(folder, rank) for rank in lost)]))
        if failed and not (late and lost):
            (_, text), rank = min(failed)  # the first in time: the others failed because it did
            raise RuntimeError(f"process {rank} of {len(children)} failed:\n{text}")
        if late and (not running or time.monotonic() > end + GRACE):
            logs = "\n".join(_log(folder, rank) for rank in lost + running)
            what = f"not come to an end after {timeout:g}" if started else f"not all started after {STARTING:g}"
            raise TimeoutError(f"the processes had {what} seconds\n{logs}")
        time.sleep(LOOK_EVERY)


def _log(folder: Path, rank: int) -> str:
    text = (folder / f"log{rank}").read_text(encoding="utf-8", errors="replace").strip()
    return f"process {rank} wrote:\n{text[-LONGEST_LOG:]}" if text else f"process {rank} wrote nothing"


def _write_outcome(folder: Path, rank: int, outcome: bytes) -> None:
    (folder / f"part{rank}").write_bytes(outcome)
    (folder / f"part{rank}").rename(folder / f"outcome{rank}")  # at once, so that nobody reads half of it


def _read_outcome(folder: Path, rank: int) -> Any:
    path = folder / f"outcome{rank}"
    return pickle.loads(path.read_bytes()) if path.exists() else None
