r"""Build one file of C++, with the headers beside it, where there is a compiler, once, and load it.

What is built here is plain C++ behind a few C functions: it needs neither torch's headers nor Python's, so that it
compiles in seconds and any Python can load it. The result lies where torch keeps such things, under a name that holds a
hash of what it was made from. Each build works in a directory of its own and its result is moved into place at the end:
two processes that build at the same time disturb neither each other nor anybody who has loaded the file, and one that
dies half-way leaves no lock behind.
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

Typed = Callable[[ctypes.CDLL], ctypes.CDLL]


class KernelUnavailable(RuntimeError):
    r"""Why there is no kernel on this machine; everything works without it, only slower. Lesson: 11."""


def load_library(source: Path, typed: Typed, say_what: str) -> ctypes.CDLL:
    r"""The library that a file of C++ becomes, built first if need be; asked for again, the same one.

    Args:
        source: the file; it includes what every compiler brings along, and `.hpp` files that lie beside it.
        typed: gives a library back after it has set the types of its functions.
        say_what: what a user is told is being built, such as "the fast kernel".
    Returns: the library.
    Raises:
        KernelUnavailable: if it cannot be built or loaded here; the message says why.
    Lesson: 11.
    """
    library = _opened(source, typed, say_what)
    if isinstance(library, str):
        raise KernelUnavailable(library)
    return library


def library_failure(source: Path, typed: Typed, say_what: str) -> str | None:
    r"""Why a file of C++ cannot be had as a library here; builds it to find out.

    Args:
        source: as in `load_library`.
        typed: as in `load_library`.
        say_what: as in `load_library`.
    Returns: the reason; None = it can be loaded.
    Lesson: 11.
    """
    library = _opened(source, typed, say_what)
    return library if isinstance(library, str) else None


@cache
def _opened(source: Path, typed: Typed, say_what: str) -> ctypes.CDLL | str:
    r"""The library, or why there is none; asked once, since a compiler does not appear in between."""
    try:
        path = library_file(source)
        if not path.is_file():
            build_library(source, path, say_what)
        return typed(ctypes.CDLL(str(path)))
    except (OSError, KernelUnavailable, AttributeError) as error:
        return str(error)


def library_file(source: Path) -> Path:
    r"""Where the library lies, or will lie.

    Args:
        source: the file that it is made from.
    Returns: a path whose name depends on the source and the `.hpp` files beside it, the flags and the kind of machine.
    Lesson: 11.
    """
    from torch.utils.cpp_extension import get_default_build_root

    files = [source, *sorted(source.parent.glob("*.hpp"))]
    made_of = (*(file.read_text(encoding="utf-8") for file in files), *FLAGS, platform.machine(), platform.system())
    digest = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    return Path(get_default_build_root()) / "minillm" / f"{source.stem}_{digest}.so"


def build_library(source: Path, path: Path, say_what: str, say: Callable[[str], None] | None = None) -> None:
    r"""Compile a file, in a process of its own with a limit on its time.

    Args:
        source: the file.
        path: of the library to be.
        say_what: as in `load_library`.
        say: is told, in a line, that something takes a while; None = print it to stderr.
    Raises:
        KernelUnavailable: if there is no compiler or no ninja, or if they fail.
    Source: PyTorch documentation, torch.utils.cpp_extension.load.
    Lesson: 11.
    """
    if (missing := missing_tool()) is not None:
        raise KernelUnavailable(missing)
    (say or _say)(f"building {say_what}, once, in some 20 seconds ...")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        command = [sys.executable, "-c", BUILD, path.stem, str(source), directory, *FLAGS]
        try:
            run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                                 timeout=BUILD_SECONDS, env={**os.environ, "PATH": _search_path()})
        except subprocess.TimeoutExpired as error:
            raise KernelUnavailable(f"the compiler was not done after {BUILD_SECONDS} seconds") from error
        made = next((file for file in Path(directory).glob(f"{path.stem}*") if file.suffix in (".so", ".dylib")), None)
        if made is None or run.returncode != 0:
            lines = [line for line in (run.stdout + run.stderr).splitlines() if " error: " in line or "fatal" in line]
            lines = lines or (run.stderr or run.stdout).splitlines()[-1:]
            raise KernelUnavailable(f"the compiler failed: {' | '.join(lines)[:500] or f'exit code {run.returncode}'}")
        os.replace(made, path)


def missing_tool() -> str | None:
    r"""What a build wants and this machine has not.

    Returns: the reason why nothing can be built, with its fix; None = all is there.
    Lesson: 11.
    """
    search = _search_path()
    if not any(shutil.which(name, path=search) for name in COMPILERS):
        return "no C++ compiler found (Debian, Ubuntu: apt-get install g++; macOS: xcode-select --install)"
    if not shutil.which("ninja", path=search):
        return "ninja is missing, which builds extensions of torch (python -m pip install ninja)"
    return None


def _search_path() -> str:
    r"""Where programs are looked for: as always, and beside this Python, whose environment need not be activated."""
    return os.pathsep.join([*os.get_exec_path(), sysconfig.get_path("scripts")])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
