r"""How fast to learn at each step: warm up, then come down.

Both schedules are pure functions of the step and of the number of steps in the whole run. A run that is limited by the
clock does not know that number; `expected_steps` foretells it from the pace so far.
"""

import math


def warmup_factor(step: int, warmup_steps: int) -> float:
    r"""A straight line from nearly 0 up to 1, which step number `warmup_steps - 1` reaches.

    Adam divides by a running estimate of the gradient's size; in the first steps that estimate rests on very few
    gradients, and small steps keep its mistakes small.

    Args:
        step: steps done before this one, from 0.
        warmup_steps: length of the line; 0 = no warm-up.
    Returns: a factor in (0, 1].
    Source: Goyal et al. 2017, section 2.2; Ma and Yarats 2021 on why Adam wants it.
    Lesson: 08.
    """
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0


def cosine_lr(step: int, n_steps: int | float, warmup_steps: int, peak: float, floor: float = 0.0) -> float:
    r"""Warm up to `peak`, then half a cosine wave down to `floor`.

    Args:
        step: steps done before this one, from 0.
        n_steps: steps in the whole run; `math.inf` = never come down.
        warmup_steps: steps of warm-up, at least 0.
        peak: the largest learning rate.
        floor: the learning rate at n_steps and after.
    Returns: the learning rate of this step.
    Source: Loshchilov and Hutter 2016, SGDR, equation 5, one period; the warm-up is not in the paper.
    Lesson: 08.
    """
    if step < warmup_steps:
        return peak * warmup_factor(step, warmup_steps)
    share = min(1.0, (step - warmup_steps) / max(1, n_steps - warmup_steps))
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * share))


def linear_lr(step: int, n_steps: int | float, warmup_steps: int, peak: float, decay_share: float = 0.6) -> float:
    r"""Warm up to `peak`, stay there, and go straight down to 0 over the last part of the run.

    Args:
        step: steps done before this one, from 0.
        n_steps: steps in the whole run; `math.inf` = never come down.
        warmup_steps: steps of warm-up, at least 0.
        peak: the largest learning rate.
        decay_share: the part of the run, at its end, that the way down takes; in (0, 1].
    Returns: the learning rate of this step.
    Source: Hägele et al. 2024, Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, section 3.
    Lesson: 08.
    """
    down = min(1.0, max(0.0, 1 - step / n_steps) / decay_share)
    return peak * min(warmup_factor(step, warmup_steps), down)


def expected_steps(step: int, elapsed: int | float, steps: int | None, seconds: int | float | None) -> float:
    r"""How many steps the whole run will have, if it goes on at the pace it had so far.

    Args:
        step: steps done.
        elapsed: seconds that they took.
        steps: where the run stops at the latest; None = no limit.
        seconds: when it stops at the latest; None = no limit.
    Returns: steps; `math.inf` if nothing is known yet.
    Lesson: 08.
    """
    by_steps = math.inf if steps is None else steps
    by_clock = math.inf if seconds is None or step == 0 or elapsed <= 0 else step * seconds / elapsed
    return float(min(by_steps, by_clock))
