r"""Nothing of a training step stays behind on the CPU: checked without a GPU."""

from tests import pretend
from tests.training import placement


def test_a_step_lies_on_its_device():
    *lines, found = pretend.lines_of("tests.training.placement")
    assert lines == [f"{name} {dtype} pretend:0" for name in placement.MODELS for dtype in ("fp32", "bf16")]
    assert found.startswith("found:") and "device" in found, found
