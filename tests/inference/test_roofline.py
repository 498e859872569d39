r"""The roofline: whichever is slower; and the machine's numbers are read as they should be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference import roofline

AMOUNTS, RATES = st.floats(0, 1e15), st.floats(1e3, 1e15)


@given(AMOUNTS, AMOUNTS, RATES, RATES)
def test_the_paper_s_form_agrees(flops, n_bytes, peak_flops, bandwidth):
    seconds = roofline.roofline_time(flops, n_bytes, peak_flops, bandwidth)
    if flops >= 1 and n_bytes >= 1:
        attained = min(peak_flops, bandwidth * (flops / n_bytes))  # operations a second, of Williams et al.
        assert flops / seconds == pytest.approx(attained, rel=1e-9)
    assert seconds >= n_bytes / bandwidth and seconds >= flops / peak_flops


def test_hand_made_numbers():
    assert roofline.roofline_time(200, 50, 100, 10) == 5.0
    assert roofline.roofline_time(2000, 50, 100, 10) == 20.0
    assert roofline.roofline_time(0, 0, 100, 10) == 0.0
    assert roofline.ridge_point(1e12, 1e11) == 10.0
    assert roofline.roofline_time(500, 50, 100, 10) == 500 / 100 == 50 / 10  # at the ridge both end together


def test_a_linear_layer_counts_what_it_multiplies_and_moves():
    assert roofline.linear_flops(3, 5, 7) == sum(2 for _ in range(3) for _ in range(5) for _ in range(7))
    assert roofline.linear_bytes(3, 5, 7, weight_bits=4, activation_bits=32) == 5 * 7 / 2 + 4 * (3 * 5 + 3 * 7)


def test_decode_bound_is_a_roofline_without_computing():
    seconds = roofline.roofline_time(1, 270e6, 1e15, 27e9)
    assert roofline.decode_bound(270e6, 27e9) == pytest.approx(1 / seconds) == pytest.approx(100)


def test_measuring_runs_the_work_as_often_as_it_says():
    runs = []
    assert roofline.least_seconds(lambda: runs.append(1), rounds=4) >= 0
    assert len(runs) == 5  # one to warm up
    assert 0 < roofline.measure_bandwidth(2**20, rounds=2) < 1e15
    assert 0 < roofline.measure_matmul(64, torch.bfloat16, rounds=2) < 1e18


@pytest.mark.parametrize("call, words", [
    (lambda: roofline.roofline_time(-1.0, 1.0, 1.0, 1.0), "flops=-1.0"),
    (lambda: roofline.roofline_time(1.0, -1.0, 1.0, 1.0), "n_bytes=-1.0"),
    (lambda: roofline.roofline_time(1.0, 1.0, 0.0, 1.0), "peak_flops=0.0"),
    (lambda: roofline.roofline_time(1.0, 1.0, 1.0, -2.0), "bandwidth=-2.0"),
    (lambda: roofline.decode_bound(0.0, 1.0), "model_bytes=0.0"),
    (lambda: roofline.measure_bandwidth(0), "n_bytes=0"),
    (lambda: roofline.measure_matmul(0), "size=0"),
    (lambda: roofline.least_seconds(lambda: None, 0), "rounds=0"),
])  # fmt: skip
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
