r"""torch.compile, where it can work."""

import shutil
from collections.abc import Callable

import torch


def has_cpp_compiler() -> bool:
    r"""Whether a C++ compiler is to be found, which torch.compile wants on a CPU. Lesson: 08."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))


def compiled(function: Callable, device: torch.device) -> Callable:
    r"""The function by torch.compile. A run never needs it, and a short one never earns its time back.

    Args:
        function: from tensors to a tensor; always called with the same shapes.
        device: where it runs.
    Returns: the compiled function; compiling takes place at its first call and can take a minute.
    Raises:
        ValueError: if it is to run on a CPU and there is no C++ compiler.
    Source: Ansel et al. 2024, PyTorch 2.
    Lesson: 08.
    """
    if device.type == "cpu" and not has_cpp_compiler():
        raise ValueError("compile=True: no C++ compiler found; train without it (compile=False, --no-compile), or "
                         "install one (Debian, Ubuntu: apt-get install g++; macOS: xcode-select --install)")
    return torch.compile(function, dynamic=False)
