r"""A model lies whole on the device that it was loaded to, in every weight type: checked without a GPU."""

from tests import pretend
from tests.pretrained import placement


def test_every_weight_type_on_a_device():
    *lines, int8_found, int4_found = pretend.lines_of("tests.pretrained.placement")
    assert lines == [f"{weights} pretend:0" for weights in placement.WEIGHTS]
    assert {*placement.WEIGHTS} == {"fp32", "fp16", "bf16", "int8", "int4"}
    for found in (int8_found, int4_found):
        assert found.startswith("found:") and "device" in found, found
