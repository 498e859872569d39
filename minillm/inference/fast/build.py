r"""Build `kernel.cpp` where there is a compiler, once, and load it.

The kernel is plain C++ behind a few C functions: it needs neither torch's headers nor Python's, so that it compiles in
seconds and any Python can load it. The result lies where torch keeps such things, under a name that holds a hash of
what it was made from. Each build works in a directory of its own and its result is moved into place at the end: two
processes that build at the same time disturb neither each other nor anybody who has loaded the file, and one that dies
half-way leaves no lock behind.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-O3", "-std=c++20", "-pthread", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math",
         "-fno-signed-zeros", "-Wno-psabi")
COMPILERS = ("c++", "g++", "clang++")
BUILD_SECONDS = 300
BUILD = """
import sys
from torch.utils.cpp_extension import load
name, source, directory, *flags = sys.argv[1:]
load(name, [source], extra_cflags=flags, build_directory=directory, is_python_module=False)
"""
PATHS = ("portable", "avx2", "vnni")  # as kernel.cpp counts them; the last one that a processor has is the fastest


class KernelUnavailable(RuntimeError):
    r"""Why there is no kernel on this machine; everything works without it, only slower. Lesson: 11."""


@cache
def load_kernel() -> ctypes.CDLL:
    r"""The compiled kernel, built first if need be; asked for again, the same one.

    Returns: the library, its functions typed.
    Raises:
        KernelUnavailable: if it cannot be built or loaded here; the message says why.
    Lesson: 11.
    """
    reason = _failure()
    if reason is not None:
        raise KernelUnavailable(reason)
    return _typed(ctypes.CDLL(str(library_file())))


@cache
def _failure() -> str | None:
    r"""What keeps the kernel from being built or loaded; asked once, since a compiler does not appear in between."""
    try:
        path = library_file()
        if not path.is_file():
            build_library(path)
        _typed(ctypes.CDLL(str(path)))
    except (OSError, KernelUnavailable, AttributeError) as error:
        return str(error)
    return None


def kernel_failure() -> str | None:
    r"""Why there is no kernel here; builds it to find out.

    Returns: the reason; None = it can be loaded.
    Lesson: 11.
    """
    return _failure()


def library_file() -> Path:
    r"""Where the compiled kernel lies, or will lie.

    Returns: a path whose name depends on the source, the flags and the kind of machine.
    Lesson: 11.
    """
    from torch.utils.cpp_extension import get_default_build_root

    made_of = (SOURCE.read_text(encoding="utf-8"), *FLAGS, platform.machine(), platform.system())
    digest = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    return Path(get_default_build_root()) / "minillm" / f"kernel_{digest}.so"


def build_library(path: Path, say: Callable[[str], None] | None = None) -> None:
    r"""Compile the kernel, in a process of its own with a limit on its time.

    Args:
        path: of the library to be.
        say: is told, in a line, that something takes a while; None = print it to stderr.
    Raises:
        KernelUnavailable: if there is no compiler or no ninja, or if they fail.
    Source: PyTorch documentation, torch.utils.cpp_extension.load.
    Lesson: 11.
    """
    search = _search_path()
    if not any(shutil.which(name, path=search) for name in COMPILERS):
        raise KernelUnavailable("no C++ compiler found (Debian, Ubuntu: apt-get install g++; macOS: xcode-select "
                                "--install)")
    if not shutil.which("ninja", path=search):
        raise KernelUnavailable("ninja is missing, which builds extensions of torch (python -m pip install ninja)")
    (say or _say)("building the fast kernel, once, in some 20 seconds ...")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        command = [sys.executable, "-c", BUILD, path.stem, str(SOURCE), directory, *FLAGS]
        try:
            run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                                 timeout=BUILD_SECONDS, env={**os.environ, "PATH": search})
        except subprocess.TimeoutExpired as error:
            raise KernelUnavailable(f"the compiler was not done after {BUILD_SECONDS} seconds") from error
        made = next((file for file in Path(directory).glob(f"{path.stem}*") if file.suffix in (".so", ".dylib")), None)
        if made is None or run.returncode != 0:
            lines = [line for line in (run.stdout + run.stderr).splitlines() if " error: " in line or "fatal" in line]
            lines = lines or (run.stderr or run.stdout).splitlines()[-1:]
            raise KernelUnavailable(f"the compiler failed: {' | '.join(lines)[:500] or f'exit code {run.returncode}'}")
        os.replace(made, path)


def kernel_paths() -> tuple[str, ...]:
    r"""The code paths that this processor can take, the fastest one last.

    Returns: some of `PATHS`.
    Raises:
        KernelUnavailable: if there is no kernel here.
    Lesson: 11.
    """
    library = load_kernel()
    return tuple(name for number, name in enumerate(PATHS) if library.kernel_supports(number))


def _search_path() -> str:
    r"""Where programs are looked for: as always, and beside this Python, whose environment need not be activated."""
    return os.pathsep.join([*os.get_exec_path(), sysconfig.get_path("scripts")])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    library.kernel_supports.argtypes, library.kernel_supports.restype = [ctypes.c_int], ctypes.c_int
    library.kernel_open.argtypes, library.kernel_open.restype = [pointer, ctypes.c_int], pointer
    library.kernel_step.argtypes, library.kernel_step.restype = [pointer, pointer], None
    library.kernel_close.argtypes, library.kernel_close.restype = [pointer], None
    return library
