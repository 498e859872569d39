r"""Whatever is rounded stays on its device: checked without a GPU."""

from tests import pretend
from tests.inference.quantization import rounding_placement


def test_rounded_numbers_lie_where_the_weights_lie():
    *lines, left_behind = pretend.lines_of("tests.inference.quantization.rounding_placement")
    assert lines == [f"{name}: pretend:0" for name in list(rounding_placement.CASES)[:-1]]
    assert left_behind.startswith("left behind:") and "same device" in left_behind
