r"""What chooses the next token stays on the model's device: checked without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference import placement


def test_choices_lie_on_the_device_of_the_logits():
    command = [sys.executable, "-m", "tests.inference.placement"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if run.returncode == 77:
        pytest.skip("this torch cannot be taught a device in Python (a private function that may go)")
    assert run.returncode == 0, run.stderr[-2000:]
    *lines, left_behind = run.stdout.splitlines()
    assert lines == [f"{name}: pretend:0" for name in list(placement.CASES)[:-1]]
    assert left_behind.startswith("left behind:") and "same device" in left_behind
