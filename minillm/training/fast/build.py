r"""`kernel.cpp` as a library whose functions Python can call, and whether this processor is one for it."""

import ctypes
from pathlib import Path

from minillm.native import build as native_build

SOURCE = Path(__file__).with_name("kernel.cpp")
SAY_WHAT = "the kernel for training"
FUNCTIONS = ("chain", "transposed", "paired", "weight_grad", "attend", "attend_back")  # as kernel.cpp exports them
PORTABLE, BF16, TILES = range(3)  # what the processor has, as kernel.cpp counts it


def load_training_kernel() -> ctypes.CDLL:
    r"""The compiled kernel, built first if need be; asked for again, the same one.

    Returns: the library, its functions typed.
    Raises:
        KernelUnavailable: if it cannot be built or loaded here; the message says why.
    Lesson: 08.
    """
    return native_build.load_library(SOURCE, _typed, SAY_WHAT)


def training_kernel_failure() -> str | None:
    r"""Why training is not faster by the kernel here; builds it to find out.

    Returns: the reason; None = it can be loaded, and the processor has what makes it fast.
    Lesson: 08.
    """
    reason = native_build.library_failure(SOURCE, _typed, SAY_WHAT)
    if reason is not None:
        return reason
    level = load_training_kernel().kernel_level()
    if level == PORTABLE:
        return "this processor has no instructions for bf16 (AVX512-BF16)"
    if level == TILES:
        return "this processor multiplies bf16 in tiles (AMX), which PyTorch uses and the kernel does not"
    return None


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    library.kernel_level.argtypes, library.kernel_level.restype = [], ctypes.c_int
    for name in FUNCTIONS:
        function = getattr(library, f"kernel_{name}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        function.restype = None
    return library
