r"""`kernel.cpp` as a library whose functions Python can call."""

import ctypes
from pathlib import Path

from minillm.native import build as native_build

SOURCE = Path(__file__).with_name("kernel.cpp")
PATHS = ("portable", "avx2", "vnni")  # as kernel.cpp counts them; the last one that a processor has is the fastest
SAY_WHAT = "the fast kernel"


def load_kernel() -> ctypes.CDLL:
    r"""The compiled kernel, built first if need be; asked for again, the same one.

    Returns: the library, its functions typed.
    Raises:
        KernelUnavailable: if it cannot be built or loaded here; the message says why.
    Lesson: 11.
    """
    return native_build.load_library(SOURCE, _typed, SAY_WHAT)


def kernel_failure() -> str | None:
    r"""Why there is no kernel here; builds it to find out.

    Returns: the reason; None = it can be loaded.
    Lesson: 11.
    """
    return native_build.library_failure(SOURCE, _typed, SAY_WHAT)


def kernel_paths() -> tuple[str, ...]:
    r"""The code paths that this processor can take, the fastest one last.

    Returns: some of `PATHS`.
    Raises:
        KernelUnavailable: if there is no kernel here.
    Lesson: 11.
    """
    library = load_kernel()
    return tuple(name for number, name in enumerate(PATHS) if library.kernel_supports(number))


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    library.kernel_supports.argtypes, library.kernel_supports.restype = [ctypes.c_int], ctypes.c_int
    library.kernel_open.argtypes, library.kernel_open.restype = [pointer, ctypes.c_int], pointer
    library.kernel_step.argtypes, library.kernel_step.restype = [pointer, pointer], None
    library.kernel_close.argtypes, library.kernel_close.restype = [pointer], None
    return library
