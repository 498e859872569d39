r"""Start torchrun as a user would, on this machine alone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def torchrun(*words: str | Path, timeout: float = 240.0) -> subprocess.CompletedProcess:
    r"""Run words in two processes, over the loopback; what they printed, and the exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    process = subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment, cwd=ROOT)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes before itself
        stdout, stderr = process.communicate(timeout=60)
        raise AssertionError(f"the processes hang\n{stdout[-2000:]}\n{stderr[-2000:]}") from None
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
