r"""Run a notebook, and measure what it takes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from nbclient import NotebookClient
from nbformat import NotebookNode
from tqdm import tqdm

THREADS = 2
PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])  # on the kernel's path: the package need not be installed
CELL_SECONDS = 300  # a cell that takes longer hangs
AIM = 20.0
LIMIT = {True: 120.0, False: 60.0}
LONG_LESSONS = ("00", "08", "11", "13", "16")
LARGE_LESSONS = ("11", "13", "16")
GIGABYTE = 2**30


@dataclass(frozen=True)
class Cost:
    r"""What a run took.

    Args:
        seconds: from the first cell to the last.
        memory: the largest resident set of the kernel and its children, in bytes.
    """

    seconds: float
    memory: int


@dataclass(frozen=True)
class Budget:
    r"""What a run may take.

    Args:
        seconds: at most.
        memory: at most, in bytes.
    """

    seconds: float
    memory: int

    def allows(self, cost: Cost) -> bool:
        r"""Whether a run was within it.

        Args:
            cost: of the run.
        Returns: True if neither time nor memory was too much.
        """
        return cost.seconds <= self.seconds and cost.memory <= self.memory


def budget_of(number: str) -> Budget:
    r"""The budget of a lesson.

    Args:
        number: two digits.
    Returns: its seconds and bytes.
    """
    return Budget(LIMIT[number in LONG_LESSONS], (4 if number in LARGE_LESSONS else 2) * GIGABYTE)


def run_notebook(notebook: NotebookNode, folder: Path, title: str) -> Cost:
    r"""Run all cells in a new kernel; the outputs are written into the notebook.

    Args:
        notebook: filled in place.
        folder: the working directory of the kernel.
        title: what the progress bar says.
    Returns: what it took.
    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails that must not.
    """
    with tqdm(total=len(notebook.cells), desc=title, unit="cell", leave=False) as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            store_widget_state=False,
            resources={"metadata": {"path": str(folder)}},
            on_cell_complete=lambda cell, cell_index: bar.update(),
        )
        client.create_kernel_manager()
        # What a kernel writes to its own stderr is about its sockets; what a cell writes there is an output.
        with client.setup_kernel(env=kernel_environment(), stderr=subprocess.DEVNULL), _memory_watch(client) as peak:
            started = time.perf_counter()
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            seconds = time.perf_counter() - started
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    return Cost(seconds, peak[0])


def kernel_environment() -> dict[str, str]:
    r"""What a kernel inherits: few threads, the packages that the builder sees, no chatter of the debugger.

    Returns: environment variables.
    """
    path = os.pathsep.join(dict.fromkeys([PACKAGE_ROOT, *filter(None, sys.path)]))
    threads = str(min(THREADS, os.cpu_count() or 1))
    return {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


@contextmanager
def _memory_watch(client: NotebookClient) -> Iterator[list[int]]:
    r"""Look at the kernel's memory ten times a second, its children included."""
    peak = [0]
    done = threading.Event()
    process = psutil.Process(client.km.provisioner.process.pid)

    def watch() -> None:
        while True:
            try:
                family = [process, *process.children(recursive=True)]
                peak[0] = max(peak[0], sum(member.memory_info().rss for member in family))
            except psutil.Error:  # a child that has just ended
                pass
            if done.wait(0.1):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
