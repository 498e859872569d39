r"""Memory that a step frees is wanted again by the next: let it stay with the program."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # the C library's numbers for what is set here
NEVER = -1  # as a number it would be 2 GiB at most


def keep_freed_memory() -> bool:
    r"""Have the C library keep what is freed, for the whole program and from now on.

    By default glibc hands large blocks back to the system as soon as they are freed. A training step frees all its
    activations, and the next one gets fresh pages, each of which the system must find, zero and map: thousands of
    interruptions a step. The program then stays as large as it ever was.

    Returns: whether it could be set; False where the C library is another one.
    Source: the GNU C Library's manual, Malloc Tunable Parameters.
    Lesson: 08.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, NEVER) == 1
