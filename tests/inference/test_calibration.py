r"""Calibration against naive loops, and on answers whose calibration is known."""

import math

import pytest
import torch

from minillm.inference import calibration


def by_loops(confidences, correct, n_bins):
    total = 0.0
    for i in range(n_bins):
        inside = [j for j, c in enumerate(confidences)
                  if i / n_bins <= c < (i + 1) / n_bins or (i == n_bins - 1 and c == 1)]
        if inside:
            confidence = sum(confidences[j] for j in inside) / len(inside)
            accuracy = sum(correct[j] for j in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(confidence - accuracy)
    return total


@pytest.mark.parametrize("n_bins", [1, 4, 10, 16])
def test_the_error_is_that_of_loops(n_bins, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    confidences = (torch.randint(0, 1000, (300,), generator=generator) + 0.5) / 1000  # never at an edge
    confidences[:2] = torch.tensor([0.0, 1.0])
    correct = torch.rand(300, generator=generator) < 0.6
    want = by_loops(confidences.tolist(), correct.tolist(), n_bins)
    assert calibration.expected_calibration_error(confidences, correct, n_bins) == pytest.approx(want, abs=1e-6)
    bins = calibration.calibration_bins(confidences, correct, n_bins)
    assert sum(each.count for each in bins) == 300 and all(each.low <= each.confidence <= each.high for each in bins)
    weighted = sum(each.count / 300 * abs(each.confidence - each.accuracy) for each in bins)
    assert weighted == pytest.approx(want, abs=1e-6)


def test_edges_belong_to_the_bin_above_and_1_to_the_last():
    confidences = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    bins = calibration.calibration_bins(confidences, torch.ones(5, dtype=torch.bool), 4)
    assert [(each.low, each.count) for each in bins] == [(0.0, 1), (0.25, 1), (0.5, 1), (0.75, 2)]


def test_perfect_calibration_and_its_opposite():
    confidences, correct = torch.tensor([0.25] * 4 + [1.0] * 3), torch.tensor([True] + [False] * 3 + [True] * 3)
    assert calibration.expected_calibration_error(confidences, correct) == 0.0
    assert calibration.expected_calibration_error(torch.ones(3), torch.zeros(3, dtype=torch.bool)) == 1.0


def test_errors_of_two_signs_hide_each_other_only_within_a_bin():
    confidences, correct = torch.tensor([0.45, 0.55]), torch.tensor([True, False])
    assert calibration.expected_calibration_error(confidences, correct, 1) == pytest.approx(0.0, abs=1e-7)
    assert calibration.expected_calibration_error(confidences, correct, 2) == pytest.approx(0.55)


@pytest.mark.parametrize(("confidences", "n_bins", "said"), [
    ([0.5], 0, "n_bins=0: use at least 1"), ([], 5, "confidences is empty"), ([0.5, 1.5], 5, "confidences holds 1.5"),
    ([-0.25, 0.5], 5, "confidences holds -0.25"), ([float("nan")], 5, "confidences holds nan")])
def test_what_is_no_probability_is_refused(confidences, n_bins, said):
    confidences = torch.tensor(confidences, dtype=torch.float32)
    correct = torch.zeros(len(confidences), dtype=torch.bool)
    for function in (calibration.expected_calibration_error, calibration.calibration_bins):
        with pytest.raises(ValueError, match=said):
            function(confidences, correct, n_bins)


def test_top_choices_leave_ignored_targets_out():
    logits = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0], [math.log(4.0), 0.0]])
    confidences, correct = calibration.top_choices(logits, torch.tensor([0, -100, 0]))
    torch.testing.assert_close(confidences, torch.tensor([0.75, 0.8]))
    assert correct.tolist() == [False, True]


def test_the_temperature_that_was_put_in_is_found(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    probs = torch.randint(1, 20, (8, 5), generator=generator).double()
    # Each token comes exactly as often as its probability says, so that the best temperature is exactly 1.
    logits = probs.log().repeat_interleave(probs.sum(1).long(), dim=0)
    targets = torch.cat([torch.arange(5).repeat_interleave(row.long()) for row in probs])
    for temperature in (0.3, 1.0, 4.0):
        assert calibration.fit_temperature(logits * temperature, targets) == pytest.approx(temperature, rel=1e-6)
