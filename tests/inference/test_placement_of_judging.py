r"""What looks at a model stays on its device: checked without a GPU."""

from tests import pretend
from tests.inference import judging_placement


def test_judging_happens_on_the_device_of_the_model():
    *lines, left_behind = pretend.lines_of("tests.inference.judging_placement")
    assert lines == [f"{name}: pretend:0" for name in list(judging_placement.CASES)[:-1]]
    assert left_behind.startswith("left behind:") and "same device" in left_behind
