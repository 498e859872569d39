r"""Caches keep and give back what they hold on the device of the model: checked without a GPU."""

from tests import pretend
from tests.inference.caches import cache_placement


def test_caches_do_the_same_on_the_device_of_the_model():
    *lines, left_behind = pretend.lines_of("tests.inference.caches.cache_placement")
    assert lines == [f"{name}: pretend:0, right" for name in list(cache_placement.CASES)[:-1]]
    assert left_behind.startswith("left behind:") and "same device" in left_behind
