r"""Tuned models are where their base is: checked without a GPU."""

from tests import pretend
from tests.tuning import placement_of_tuning


def test_tuned_models_lie_where_their_base_lies():
    lines = pretend.lines_of("tests.tuning.placement_of_tuning")
    assert lines == [f"{name} {dtype} pretend:0" for name in placement_of_tuning.METHODS for dtype in ("fp32", "bf16")]
