r"""The least time on a machine."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Rule = Callable[[float, float, float, float], float]


def roof_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (200.0, 50.0, 100.0, 10.0), {}
    for work, traffic in ((1, 900), (900, 1), (90, 90), (2000, 30), (10, 10)):
        flops, n_bytes = (draw.size(100, 999) * factor * 1e6 for factor in (work, traffic))
        yield (flops, n_bytes, draw.size(100, 999) * 1e9, draw.size(5, 99) * 1e9), {}
    yield (0.0, draw.size(5, 9) * 1e6, 1e11, draw.size(5, 99) * 1e9), {}
    yield (draw.size(5, 9) * 1e9, 0.0, draw.size(5, 99) * 1e9, 1e10), {}
    yield (-draw.size(1, 9) * 1e6, 1e6, 1e11, 1e10), {}  # to be refused, as all that follow
    yield (1e6, -draw.size(1, 9) * 1e6, 1e11, 1e10), {}
    yield (1e6, draw.size(1, 9) * 1e6, 0.0, 1e10), {}
    yield (1e6, draw.size(1, 9) * 1e6, 1e11, 0.0), {}
    yield (1e6, draw.size(1, 9) * 1e6, 1e11, -1e10), {}


def with_fractions(flops: float, n_bytes: float, peak_flops: float, bandwidth: float) -> float:
    r"""The later of two ends, in exact fractions."""
    if min(flops, n_bytes) < 0 or min(peak_flops, bandwidth) <= 0:
        raise ValueError("work below 0, or a machine that does nothing")
    ends = [Fraction(amount) / Fraction(rate) for amount, rate in ((flops, peak_flops), (n_bytes, bandwidth))]
    return float(sorted(ends)[-1])


def roof_with(rule: Rule, refuse: bool = True) -> Callable[..., float]:
    r"""Another rule (flops, n_bytes, peak_flops, bandwidth), after bad input has been refused (or not)."""

    def function(flops: float, n_bytes: float, peak_flops: float, bandwidth: float) -> float:
        if refuse and (flops < 0 or n_bytes < 0 or peak_flops <= 0 or bandwidth <= 0):
            raise ValueError(f"{flops=}, {n_bytes=}, {peak_flops=}, {bandwidth=}")
        return rule(flops, n_bytes, peak_flops, bandwidth)

    return function


def attained(flops: float, n_bytes: float, peak_flops: float, bandwidth: float) -> float:
    return min(peak_flops, bandwidth * flops / n_bytes) if n_bytes else float(peak_flops)


def later_end(flops: float, n_bytes: float, peak_flops: float, bandwidth: float) -> float:
    if n_bytes and flops / n_bytes < peak_flops / bandwidth:
        return n_bytes / bandwidth
    return flops / peak_flops


ROOFLINE_TIME = Exercise(
    id="inference.roofline.roofline_time",
    lesson="11",
    title="The roofline",
    task="A piece of work needs `flops` operations and must move `n_bytes` bytes. A machine can do `peak_flops` "
    "operations a second, and its memory delivers `bandwidth` bytes a second; it computes and fetches at the same "
    "time. Give the least number of seconds that the work takes. Negative work, and a machine of which a rate is not "
    "above 0, must be refused with a ValueError.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=115,
    hints=(
        "200 operations at 100 a second, and 50 bytes at 10 a second. When is each of the two done?",
        "Both go on side by side, like two people who each have their own pile. When can they go home?",
    ),
    cases=roof_cases,
    oracle=with_fractions,
    other_style=roof_with(later_end),
    tolerance=Tolerance(1e-9, 0.0, "a division in double precision"),
    mistakes=(
        Mistake(
            "one after the other",
            roof_with(lambda flops, n_bytes, peak, bandwidth: flops / peak + n_bytes / bandwidth),
            "You add the two times, as if the machine fetched everything first and then computed. It does both at "
            "once: the longer time decides. (The sum is at most twice that; a real kernel lies between.)",
        ),
        Mistake(
            "the shorter time",
            roof_with(lambda flops, n_bytes, peak, bandwidth: min(flops / peak, n_bytes / bandwidth)),
            "You take the shorter time. The work is done when *both* are: the longer one decides.",
        ),
        Mistake(
            "computing only",
            roof_with(lambda flops, n_bytes, peak, bandwidth: flops / peak),
            "You count the operations and not the bytes. For a single token this is what makes people expect a "
            "hundred times what their machine can give.",
        ),
        Mistake(
            "memory only",
            roof_with(lambda flops, n_bytes, peak, bandwidth: n_bytes / bandwidth),
            "You count the bytes and not the operations. That is right for one token at a time, and far too little for "
            "a long prompt, where each weight that comes is used for every token.",
        ),
        Mistake(
            "rates swapped",
            roof_with(lambda flops, n_bytes, peak, bandwidth: max(flops / bandwidth, n_bytes / peak)),
            "The rates are swapped: operations are divided by the bandwidth, bytes by operations a second. Look at the "
            "units: a time must come out.",
        ),
        Mistake(
            "upside down",
            roof_with(lambda flops, n_bytes, peak, bandwidth: min(
                peak / flops if flops else float("inf"), bandwidth / n_bytes if n_bytes else float("inf"))),
            "You divide the rates by the work: that is how often a second it could be done. Asked for is the time.",
        ),
        Mistake(
            "operations a second",
            roof_with(attained),
            "You give the operations a second that can be reached, min(peak, bandwidth * intensity): the roofline as "
            "it is drawn in the paper. Asked for is the time that it leads to.",
        ),
        Mistake(
            "bits",
            roof_with(lambda flops, n_bytes, peak, bandwidth: max(flops / peak, 8 * n_bytes / bandwidth)),
            "You count 8 for each byte. Both `n_bytes` and `bandwidth` are in bytes already; networks are sold in "
            "bits, memories in bytes.",
        ),
        Mistake(
            "nothing refused",
            roof_with(lambda flops, n_bytes, peak, bandwidth: max(flops / peak, n_bytes / bandwidth), refuse=False),
            "Negative work, or a machine that does nothing, is not refused with a ValueError: out comes a time that "
            "means nothing, or a ZeroDivisionError that does not say which number was wrong.",
        ),
    ),
)
