r"""What all tests share: checked shapes, one thread a worker, fresh seeds."""

import os
import secrets
import shutil

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports torch: xdist's workers share the cores, and threads that wait for each other by spinning are slow.
# Set in the environment, so that what a test starts (a kernel, a second process, the compiler's workers) follows too.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        os.environ.setdefault(variable, "1")

# Before anything imports minillm: every shape and type in a signature is checked when the function is called. Parts
# that take tensors only: what a user hands to the rest must meet our own errors, which the tests read.
install_import_hook([f"minillm.{part}" for part in ("layers", "model", "text", "training", "inference")], "beartype.beartype")

settings.register_profile("course", deadline=None, max_examples=30, print_blob=True)
settings.load_profile("course")


def pytest_addoption(parser: pytest.Parser) -> None:
    r"""Let a failure be repeated: pytest --fresh-seed N gives every test the seed N."""
    parser.addoption("--fresh-seed", type=int, default=None, help="the seed that fresh_seed gives, instead of a fresh one")


@pytest.fixture
def fresh_seed(request: pytest.FixtureRequest) -> int:
    r"""A seed drawn afresh for each test, shown if the test fails; it seeds nothing by itself."""
    given = request.config.getoption("--fresh-seed")
    seed = secrets.randbelow(2**31) if given is None else given
    print(f"fresh_seed = {seed}; to repeat: pytest --fresh-seed {seed} '{request.node.nodeid}'")  # shown on failure only
    return seed


@pytest.fixture(scope="session")
def chromium() -> str:
    r"""The path of a Chromium or Chrome to drive; a test that wants one is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium on the PATH (Debian, Ubuntu: sudo apt-get install chromium)")
