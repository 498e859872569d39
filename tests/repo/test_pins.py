r"""One list of versions: requirements.txt pins, constraints.txt holds the rest, the other files agree with them."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.project import ROOT

FREE = re.compile(r"^(torch|nvidia-|cuda-|triton|pytorch-|setuptools$|pip$)")  # differ by platform


def pins(name: str) -> dict[str, str]:
    r"""The pinned versions of a requirements file; a line that is not an exact pin is an error."""
    lines = [line.strip() for line in (ROOT / name).read_text().splitlines()]
    wanted = [line for line in lines if line and not line.startswith(("#", "-c "))]
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in wanted]
    loose = [line for line, match in zip(wanted, found, strict=True) if match is None]
    assert not loose, f"{name}: pin with == and without a local version: {loose}"
    names = [canonicalize_name(match[1]) for match in found]
    assert len(names) == len(set(names)), f"{name} names a package twice: {sorted(names)}"
    return dict(zip(names, (match[2] for match in found), strict=True))


def project() -> dict:
    r"""The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def ranges() -> list[Requirement]:
    r"""Every requirement of the package and its extras."""
    extras = project()["optional-dependencies"].values()
    return [Requirement(line) for line in [*project()["dependencies"], *(line for extra in extras for line in extra)]]


def test_the_pinned_packages_are_those_of_pyproject():
    assert set(pins("requirements.txt")) == {canonicalize_name(requirement.name) for requirement in ranges()}


@pytest.mark.parametrize("requirement", ranges(), ids=lambda requirement: requirement.name)
def test_a_pin_lies_in_its_range(requirement):
    pin = pins("requirements.txt")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), f"{requirement.name}=={pin} is outside {requirement.specifier}"
    assert re.fullmatch(r">=[\d.]+", str(requirement.specifier)), "the doctor reads ranges of the form name>=1.2"


def test_constraints_hold_only_the_rest():
    held = pins("constraints.txt")
    assert len(held) > 50
    assert not set(held) & set(pins("requirements.txt")), "pinned in both files"
    assert not [name for name in held if FREE.match(name)], "differs by platform: leave it free"
    assert "-c constraints.txt" in (ROOT / "requirements.txt").read_text().splitlines()


def test_conda_gets_the_same_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = f"python{project()['requires-python']}"
    assert environment["dependencies"] == [python, "pip", {"pip": ["-r requirements.txt"]}]


def test_the_oldest_python_is_the_same_everywhere():
    least = project()["requires-python"].removeprefix(">=")
    pair = f"({least.replace('.', ', ')})"
    assert pair in (ROOT / "Makefile").read_text()
    assert pair in (ROOT / "minillm" / "__main__.py").read_text()
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["target-version"]
    assert target == "py" + least.replace(".", "")
