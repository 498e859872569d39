r"""`make setup`, tried with a stand-in for Python that notes what it is asked to do instead of installing anything."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.repo.project import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")

# Answers version and module questions as the real one would, notes every other call, fails if a file says so.
STAND_IN = """#!/bin/sh
here=$(dirname "$0")
case "$1 $2" in
    "-m venv") echo "venv $3" >> calls; mkdir -p .venv/bin; rm -rf .venv/lib; cp "$0" .venv/bin/python ;;
    "-m pip") shift 2; echo "pip $*" >> calls; if [ -e fail ] || rm fail-once 2>/dev/null; then exit 3; fi ;;
    "-m minillm") shift 2; echo "minillm $*" >> calls; if [ -e no-weights ]; then exit 1; fi ;;
    "-c import venv, ensurepip") exit {venv} ;;
    *) exec "{python}" "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    r"""A folder (its name has a space) with the files that the set-up reads, and a stand-in for Python."""
    folder = tmp_path / "my courses" / "minillm"
    folder.mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    write_python(folder)
    return folder


def write_python(folder: Path, has_venv: bool = True) -> None:
    r"""Put the stand-in into the folder as `standin`."""
    (folder / "standin").write_text(STAND_IN.format(python=sys.executable, venv=0 if has_venv else 1))
    (folder / "standin").chmod(0o755)


def make(folder: Path, *arguments: str, python: str = "./standin") -> subprocess.CompletedProcess:
    r"""Run make there, free of the variables that an outer make hands on."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PIP_ARGS"))
    }
    command = ["make", *arguments, f"PYTHON={python}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def calls(folder: Path) -> list[str]:
    r"""What the stand-in was asked since the last look: "venv" or "pip", and the arguments of pip."""
    notes = folder / "calls"
    found = notes.read_text().splitlines() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return found


WEIGHTS = "minillm weights"
INSTALL = "pip install --disable-pip-version-check -r requirements.txt -e ."


def test_first_call_sets_up_and_second_starts_at_once(checkout):
    run = make(checkout, "setup")
    assert run.returncode == 0, run.stderr
    assert calls(checkout) == ["venv --clear", INSTALL, WEIGHTS]
    assert make(checkout, "setup").returncode == 0
    assert calls(checkout) == []


def test_without_the_real_weights_there_is_a_warning_and_the_setup_stands(checkout):
    (checkout / "no-weights").touch()
    run = make(checkout, "setup")
    assert run.returncode == 0 and "Warning" in run.stderr and "-m minillm weights" in run.stderr
    assert calls(checkout) == ["venv --clear", INSTALL, WEIGHTS]
    assert make(checkout, "setup").returncode == 0
    assert calls(checkout) == []


def test_an_interrupted_setup_is_repeated_from_the_start(checkout):
    (checkout / "fail").touch()
    assert make(checkout, "setup").returncode != 0
    assert calls(checkout) == ["venv --clear", INSTALL, INSTALL]
    (checkout / "fail").unlink()
    assert make(checkout, "setup").returncode == 0
    assert calls(checkout) == ["venv --clear", INSTALL, WEIGHTS]


def test_a_bad_moment_of_an_index_is_survived(checkout):
    (checkout / "fail-once").touch()
    run = make(checkout, "setup")
    assert run.returncode == 0 and "Once more" in run.stderr
    assert calls(checkout) == ["venv --clear", INSTALL, INSTALL, WEIGHTS]


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt", "pyproject.toml"])
def test_a_changed_list_is_installed_into_the_same_environment(checkout, name):
    make(checkout, "setup")
    calls(checkout)
    later = time.time() + 10
    os.utime(checkout / name, (later, later))
    (checkout / "fail").touch()
    assert make(checkout, "setup").returncode != 0
    assert calls(checkout) == [INSTALL, INSTALL]
    (checkout / "fail").unlink()
    assert make(checkout, "setup").returncode == 0
    assert calls(checkout) == ["venv --clear", INSTALL, WEIGHTS], "an interrupted change must be noticed too"


def test_a_moved_folder_is_set_up_again(checkout, tmp_path):
    make(checkout, "setup")
    calls(checkout)
    moved = checkout.rename(tmp_path / "elsewhere")
    assert make(moved, "setup").returncode == 0
    assert calls(moved) == ["venv --clear", INSTALL, WEIGHTS]


def test_pip_gets_further_arguments(checkout):
    assert make(checkout, "setup", "PIP_ARGS=--quiet --no-cache-dir").returncode == 0
    assert INSTALL.replace("-r ", "--quiet --no-cache-dir -r ") in calls(checkout)


def test_no_fitting_python_is_said(checkout):
    old = checkout / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = make(checkout, "setup", python="./old-python")
    assert run.returncode != 0 and "needs Python 3.11 or newer" in run.stderr and "./old-python" in run.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_is_told_how_to_get_it(checkout):
    write_python(checkout, has_venv=False)
    run = make(checkout, "setup")
    assert run.returncode != 0 and "python3-venv" in run.stderr
    assert not (checkout / ".venv").exists()
