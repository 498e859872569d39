r"""A device that does not exist: nothing is computed on it, but every tensor knows where it lies.

torch can be taught a device in Python, and under FakeTensorMode tensors have shapes and devices and no numbers. So a
mask, a target or an index that was left on the CPU is found without a GPU. This changes torch for the whole process, so
it is done in a process of its own: a module that calls `teach` or `tell_devices`, and prints a line a case. Code that
asks tensors for their numbers is checked by `tests/pretend_numbers.py`.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

UNTEACHABLE = 77  # exit code


def teach():
    r"""Let torch know the device `pretend`, or end the process if this torch cannot be taught one."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

        _setup_privateuseone_for_python_backend("pretend")
    except (ImportError, AttributeError):
        sys.exit(UNTEACHABLE)
    # A thread for the backward passes of a device taught in Python may still run when Python ends, and abort it.
    torch.autograd.set_multithreading_enabled(False)


def tell_devices(cases: Mapping[str, Callable[..., Any]], given: Callable[[], tuple] = tuple, mode: Any = None) -> None:
    r"""Print a line a case: where the tensor lies that it gives, or what went wrong.

    Args:
        cases: by name.
        given: makes what each of them is called with.
        mode: makes the mode in which nothing is computed; None = `FakeTensorMode`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    teach()
    for name, case in cases.items():
        with (mode or FakeTensorMode)():
            try:
                print(f"{name}: {case(*given()).device}")
            except RuntimeError as error:
                print(f"{name}: {str(error).splitlines()[0]}")


def lines_of(module: str) -> list[str]:
    r"""What a module prints, run in a process of its own."""
    command = [sys.executable, "-m", module]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if run.returncode == UNTEACHABLE:
        pytest.skip("this torch cannot be taught a device in Python (a private function that may go)")
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.splitlines()
