r"""Nothing of a training step stays behind on the CPU: checked without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import placement


def test_a_step_lies_on_its_device():
    command = [sys.executable, "-m", "tests.training.placement"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if run.returncode == 77:
        pytest.skip("this torch cannot be taught a device in Python (a private function that may go)")
    assert run.returncode == 0, run.stderr[-2000:]
    *lines, found = run.stdout.splitlines()
    assert lines == [f"{name} {dtype} pretend:0" for name in placement.MODELS for dtype in ("fp32", "bf16")]
    assert found.startswith("found:") and "device" in found, found
