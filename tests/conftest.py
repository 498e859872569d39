r"""What all tests share: checked shapes, one thread a worker, fresh seeds."""

import os

# Before torch is imported: xdist's workers share the cores, and threads that wait for each other by spinning are slow.
# Set in the environment, so that what a test starts (a kernel, a second process, the compiler's workers) follows too.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        os.environ.setdefault(_variable, "1")

import functools
import inspect
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings

OFTEN = 64  # calls of a function in one test
_calls: dict[Callable, int] = {}  # of each function, in the present test
check_always = jaxtyping.jaxtyped


def check_when_eager(function: Any = None, *, typechecker: Callable) -> Any:
    r"""jaxtyping's decorator, out of the way of torch.compile, which cannot trace the checks.

    A check takes longer than most of the functions. What one test calls thousands of times, once for each token, is
    checked OFTEN times, and from then on once in as many calls.

    A function inside a function stays as it is: it would be decorated again at each call of the outer one.
    """
    if function is None:
        return functools.partial(check_when_eager, typechecker=typechecker)
    if not inspect.isfunction(function):
        return check_always(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        return function
    checked = check_always(function, typechecker=typechecker)

    @functools.wraps(function)
    def choose(*args, **kwargs):
        __tracebackhide__ = True
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        _calls[function] = count = _calls.get(function, 0) + 1
        return function(*args, **kwargs) if count > OFTEN and count % OFTEN else checked(*args, **kwargs)

    return choose


# Before minillm is imported: every shape and type in a signature is checked when the function is called. Only the parts
# that work on tensors: what a user hands to the rest must meet our own errors, which the tests read.
CHECKED = [f"minillm.{part}" for part in ("layers", "model", "text", "training", "inference", "pretrained")]
jaxtyping.jaxtyped = check_when_eager  # the hook writes "@jaxtyping.jaxtyped(...)" above each function
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

settings.register_profile("course", deadline=None, max_examples=30, print_blob=True)
settings.load_profile("course")


def pytest_addoption(parser: pytest.Parser) -> None:
    r"""Let a failure be repeated: pytest --fresh-seed N gives every test the seed N."""
    parser.addoption("--fresh-seed", type=int, default=None, help="the seed that fresh_seed gives, not a fresh one")


def pytest_configure(config: pytest.Config) -> None:
    r"""Declare the markers of this suite."""
    config.addinivalue_line("markers", "unchecked: bad input on purpose; minillm's own checks answer, not jaxtyping's")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    r"""Check signatures from the first call on again."""
    _calls.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    r"""Switch the checks of signatures off for a test marked `unchecked`."""
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("unchecked") is not None)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def fresh_seed(request: pytest.FixtureRequest) -> int:
    r"""A seed drawn afresh for each test, shown if the test fails; it seeds nothing by itself."""
    given = request.config.getoption("--fresh-seed")
    seed = secrets.randbelow(2**31) if given is None else given
    # pytest shows what was printed only if the test fails
    print(f"fresh_seed = {seed}; to repeat: pytest --fresh-seed {seed} '{request.node.nodeid}'")
    return seed


@pytest.fixture(scope="session")
def chromium() -> str:
    r"""The path of a Chromium or Chrome to drive; a test that wants one is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium on the PATH (Debian, Ubuntu: sudo apt-get install chromium)")
