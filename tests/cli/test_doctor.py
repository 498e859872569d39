r"""The doctor: what it reports, what it calls missing, and the exit code that follows."""

import importlib.metadata
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from minillm.cli import app, doctor
from minillm.native import build as native_build
from minillm.training.fast import build as fast_build

NAMES = ["python", "versions", "test tools", "cores", "memory", "device", "kernel", "weights", "compiler",
         "training"]


def ask_doctor(monkeypatch, *findings: doctor.Finding, options: tuple[str, ...] = ()):
    r"""Run the command with checks that give these findings."""
    monkeypatch.setattr(doctor, "CHECKS", tuple(lambda finding=finding: finding for finding in findings))
    return CliRunner().invoke(app.build_app(), ["doctor", *options])


def test_this_machine_is_reported_whole():
    run = subprocess.run([sys.executable, "-m", "minillm", "doctor", "--json"], capture_output=True, text=True)
    report = json.loads(run.stdout)
    assert [finding["name"] for finding in report["findings"]] == NAMES
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert by_name["python"]["found"].startswith(sys.version.split()[0])
    assert f"torch {importlib.metadata.version('torch')}" in by_name["versions"]["found"]
    assert by_name["kernel"]["ok"], by_name["kernel"]
    assert report["ok"] and run.returncode == 0, run.stdout


def test_a_missing_must_fails_and_shows_its_fix(monkeypatch):
    run = ask_doctor(
        monkeypatch,
        doctor.Finding(name="python", ok=True, found="3.11", fix="not to be shown"),
        doctor.Finding(name="torch", ok=False, found="absent", fix="make setup"),
    )
    assert run.exit_code == 1
    assert run.output.splitlines() == ["ok       python      3.11", "missing  torch       absent  -> make setup"]


def test_a_missing_extra_is_only_a_note(monkeypatch):
    finding = doctor.Finding(name="weights", ok=False, required=False, found="absent", fix="install them")
    assert ask_doctor(monkeypatch, finding).exit_code == 0
    report = json.loads(ask_doctor(monkeypatch, finding, options=("--json",)).output)
    assert report == {"ok": True, "findings": [{"status": "note", "name": "weights", "ok": False, "found": "absent",
                                                "required": False, "fix": "install them"}]}


@pytest.mark.parametrize(("installed", "least", "short"), [
    ("2.13.0+cpu", "2.4", False),
    ("2.4", "2.4", False),
    ("2.3.9", "2.4", True),
    ("10.0", "9.5", False),
    ("1.9", "1.10", True),
])
def test_versions_are_compared_as_numbers(monkeypatch, installed, least, short):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: installed)
    found, shortcomings = doctor.shortcomings([f"torch>={least}"])
    assert found == [f"torch {installed}"]
    assert shortcomings == ([f"torch {installed} is older than {least}"] if short else [])


def test_a_package_that_is_not_there_is_named():
    assert doctor.shortcomings(["surely-no-such-package>=1.0"]) == ([], ["surely-no-such-package is missing"])


def test_without_the_package_the_fix_is_the_setup(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", absent)
    for finding in (doctor.check_versions(), doctor.check_test_tools()):
        assert not finding.ok and finding.fix == doctor.SETUP


def test_a_kernel_that_does_not_start_is_a_finding_and_no_traceback(monkeypatch):
    import jupyter_client.manager

    def refuse(**options):
        raise RuntimeError("no free port")

    monkeypatch.setattr(jupyter_client.manager, "start_new_kernel", refuse)
    finding = doctor.check_kernel()
    assert finding.status == "missing" and "no free port" in finding.found


def test_without_a_compiler_there_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.check_compiler().status == "note"


@pytest.mark.parametrize(("built", "failure", "missing", "status", "found"), [
    (True, None, None, "ok", "our own kernel is built"),
    (True, "no instructions for bf16", None, "note", "no kernel of our own: no instructions for bf16"),
    (False, None, None, "ok", "our own kernel will be built when"),
    (False, None, "no compiler", "note", "no kernel of our own: no compiler"),
])
def test_the_kernel_for_training_is_asked_only_if_it_is_built(
    monkeypatch, tmp_path, built, failure, missing, status, found
):
    if built:
        (tmp_path / "library.so").touch()
    monkeypatch.setattr(native_build, "library_file", lambda source: tmp_path / "library.so")
    monkeypatch.setattr(native_build, "missing_tool", lambda: missing)
    monkeypatch.setattr(fast_build, "training_kernel_failure", lambda: failure if built else pytest.fail("asked"))
    finding = doctor.check_training()
    assert finding.status == status and finding.found.startswith(found) and not finding.required


def test_help_lists_the_commands_without_loading_torch():
    probe = "import sys, minillm.cli.app as a; a.build_app(); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert run.returncode == 0, "a command's module imports torch at its top: move the import into the function"
    listed = CliRunner().invoke(app.build_app(), ["--help"]).output.partition("Commands:")[2]
    assert tuple(line.split()[0] for line in listed.strip().splitlines()) == app.COMMANDS


@pytest.mark.parametrize("command", app.COMMANDS)
def test_every_command_has_help(command):
    run = CliRunner().invoke(app.build_app(), [command, "--help"])
    assert run.exit_code == 0 and f" {command} [OPTIONS]" in run.output


def test_an_error_that_names_its_fix_comes_without_a_traceback(monkeypatch):
    def refuse():
        raise ValueError("seconds=0: give at least 1")

    monkeypatch.setattr(app, "build_app", lambda: refuse)
    with pytest.raises(SystemExit) as stopped:
        app.run()
    assert str(stopped.value).startswith("minillm: seconds=0: give at least 1")
