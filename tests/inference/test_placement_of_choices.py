r"""What chooses the next token stays on the model's device: checked without a GPU."""

from tests import pretend
from tests.inference import placement


def test_choices_lie_on_the_device_of_the_logits():
    *lines, left_behind = pretend.lines_of("tests.inference.placement")
    assert lines == [f"{name}: pretend:0" for name in list(placement.CASES)[:-1]]
    assert left_behind.startswith("left behind:") and "same device" in left_behind
