r"""The commands: help names every one, `make test` runs every stage, continuous integration runs `make test`."""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from tests.repo.project import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = {"help", "lab", "setup", "test", "lessons", "figures", "bench", "clean"}


def recipe(target: str) -> str:
    r"""The lines that a target runs."""
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]


def test_the_targets_are_the_promised_ones():
    assert set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)) == TARGETS
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split()) - {"$(READY)"}
    assert phony == TARGETS


@pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")
def test_help_names_every_target():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    run = subprocess.run(["make", "help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    listed = dict(re.findall(r"^  make (\w+) +(\S.*)$", run.stdout, re.MULTILINE))
    assert set(listed) == TARGETS


def test_everything_but_help_and_clean_sets_up_first():
    for target in TARGETS - {"help", "clean"}:
        assert re.search(rf"^{target}: \$\(READY\)", MAKEFILE, re.MULTILINE), target


def test_make_test_runs_every_stage_in_order():
    stages = recipe("test")
    places = [stages.find(stage) for stage in ("-m ruff check .", "-m pytest -n 2\n", "--nbval-lax")]
    assert -1 not in places and places == sorted(places), stages
    for option in (
        "--nbval-current-env",
        "--nbval-cell-timeout",
        "--dist loadfile",
        "notebooks/*.ipynb",
        "solutions/*.ipynb",
    ):
        assert option in stages
    assert "| " not in stages.replace("||", ""), "the runners' closing lines are not to be piped away"


def test_clean_leaves_what_is_the_learner_s():
    removed = re.findall(r"rm -rf ([^{].*)", recipe("clean"))[0].split()
    assert not {"my", "my/", "notebooks", "solutions", "runs"} & set(removed)


def test_continuous_integration_runs_the_same_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")


def test_the_workflow_covers_three_systems():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = {job["runs-on"]: [step["run"] for step in job["steps"] if "run" in step] for job in jobs.values()}
    assert commands["ubuntu-latest"] == ["make test"]
    assert commands["macos-latest"] == ["make setup", ".venv/bin/python -m minillm doctor"]
    assert len(commands["windows-latest"]) == 3 and commands["windows-latest"][-1].endswith("minillm doctor")
