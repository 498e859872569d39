r"""The test suite's own tools: what they promise the other tests."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minillm.layers import pairwise

ROOT = Path(__file__).parent.parent


def test_shapes_in_signatures_are_checked():
    with pytest.raises(TypeError, match="broadcast_pairwise"):
        pairwise.broadcast_pairwise("not a tensor", torch.zeros(2))


def test_what_is_called_thousands_of_times_is_checked_now_and_then():
    for _ in range(100):
        pairwise.broadcast_pairwise(torch.zeros(2), torch.zeros(2))
    checked = []
    for _ in range(64):
        with pytest.raises(Exception) as caught:
            pairwise.broadcast_pairwise("not a tensor", torch.zeros(2))
        checked.append("Type-check error" in str(caught.value))
    assert sum(checked) == 1


@pytest.mark.unchecked
def test_a_test_marked_unchecked_reaches_the_function_itself():
    with pytest.raises(Exception) as caught:
        pairwise.broadcast_pairwise("not a tensor", torch.zeros(2))
    assert "Type-check error" not in str(caught.value)


def test_torch_compile_does_not_trace_the_checks():
    compiled = torch.compile(pairwise.broadcast_pairwise, backend="eager", fullgraph=True)
    a, b = torch.randn(3), torch.randn(2)
    assert torch.equal(compiled(a, b), pairwise.broadcast_pairwise(a, b))


def test_a_failing_test_shows_its_seed_and_a_given_seed_is_used(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text("def test_fails(fresh_seed):\n    assert fresh_seed != 7\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "--fresh-seed=7"]
    run = subprocess.run([*command, str(test)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "fresh_seed = 7; to repeat: pytest --fresh-seed 7" in run.stdout
