r"""The same text is written on whatever device the model is: checked without a GPU."""

from tests import pretend
from tests.inference import writing_placement


def test_texts_are_the_same_on_the_device_of_the_model():
    *lines, left_behind = pretend.lines_of("tests.inference.writing_placement")
    assert lines == [f"{name}: pretend:0, right" for name in list(writing_placement.CASES)[:-1]]
    assert left_behind.startswith("left behind:") and "same device" in left_behind
