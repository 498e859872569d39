r"""Schedules against their formulas, by hand and by torch's own schedulers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.training.schedule import cosine_lr, expected_steps, linear_lr, warmup_factor


@given(warmup=st.integers(0, 20), n_steps=st.integers(21, 200), peak=st.floats(1e-5, 1.0), share=st.floats(0.0, 1.0))
def test_cosine_equals_torch_s_schedulers_in_a_row(warmup, n_steps, peak, share):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=n_steps - warmup, eta_min=peak * share)
    for step in range(n_steps):
        got = cosine_lr(step, n_steps, warmup, peak, peak * share)
        if step < warmup:
            assert got == pytest.approx(peak * (step + 1) / warmup)
        else:
            assert got == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
            optimizer.step()
            cosine.step()
    assert cosine_lr(n_steps, n_steps, warmup, peak, peak * share) == pytest.approx(peak * share)
    assert cosine_lr(10 * n_steps, n_steps, warmup, peak, peak * share) == pytest.approx(peak * share)


@given(warmup=st.integers(0, 20), n_steps=st.integers(50, 300), share=st.floats(0.01, 1.0))
def test_linear_is_three_straight_lines(warmup, n_steps, share):
    top = n_steps * (1 - share)
    for step in range(n_steps + 1):
        up = (step + 1) / warmup if step + 1 < warmup else 1.0
        down = (n_steps - step) / (n_steps - top) if step > top else 1.0
        assert linear_lr(step, n_steps, warmup, 3.0, share) == pytest.approx(3.0 * min(up, down), abs=1e-12)
    assert linear_lr(n_steps, n_steps, warmup, 3.0, share) == 0.0
    assert linear_lr(n_steps + 5, n_steps, warmup, 3.0, share) == 0.0


def test_without_an_end_nothing_comes_down():
    assert linear_lr(10**6, math.inf, 5, 2.0) == cosine_lr(10**6, math.inf, 5, 2.0) == 2.0
    assert warmup_factor(0, 0) == 1.0 and warmup_factor(0, 4) == 0.25 and warmup_factor(3, 4) == 1.0


@pytest.mark.parametrize(("step", "elapsed", "steps", "seconds", "expected"), [
    (0, 0.0, None, 60.0, math.inf),  # nothing is known yet
    (0, 0.0, 100, 60.0, 100),
    (10, 2.0, None, 60.0, 300),
    (10, 2.0, 200, 60.0, 200),
    (10, 2.0, 400, 60.0, 300),
    (10, 2.0, 400, None, 400),
])  # fmt: skip
def test_the_clock_foretells_the_steps(step, elapsed, steps, seconds, expected):
    assert expected_steps(step, elapsed, steps, seconds) == expected
