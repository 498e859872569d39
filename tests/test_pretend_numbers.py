r"""The device that is pretended with numbers computes rightly, and finds every kind of tensor that was left behind."""

from tests import numbers_placement, pretend


def test_numbers_are_right_and_what_was_forgotten_is_found():
    lines = pretend.lines_of("tests.numbers_placement")
    told = dict(line.split(": ", 1) for line in lines)
    assert len(told) == len(lines)
    assert {name: told[name] for name in numbers_placement.WORKS} == dict.fromkeys(
        numbers_placement.WORKS, "pretend:0, right")
    for name in numbers_placement.FORGOTTEN:
        assert "must be on the same device" in told[name], (name, told[name])
    assert told["forgets its device"] == "cpu, right"
    assert told["other numbers"] == told["other dtype"] == "pretend:0, not the numbers of the CPU"
    assert told["other way"] == "pretend:0, not the numbers of the other way"
    assert "can't be pretended" in told["another shape"]
