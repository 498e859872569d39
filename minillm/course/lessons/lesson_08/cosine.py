r"""The learning rate over a run."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def cosine_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    n_steps, warmup = draw.size(60, 100), draw.size(6, 20)
    peak = draw.size(2, 9) / 10
    floors = ({}, {"floor": peak / draw.size(4, 9)})
    first_and_last = (0, warmup - 1, warmup, n_steps - 1, n_steps, n_steps + draw.size(10, 30))
    for step in (*first_and_last, draw.size(1, warmup - 2), draw.size(warmup + 1, n_steps - 2)):
        for floor in floors:
            yield (step, n_steps, warmup, peak), floor
    yield (0, n_steps, 0, peak), {}
    yield (draw.size(warmup, 500), math.inf, warmup, peak), floors[1]


def squared_cosine(step: int, n_steps: int | float, warmup_steps: int, peak: float, floor: float = 0.0) -> float:
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= n_steps:
        return floor
    quarter_turns = (step - warmup_steps) / (n_steps - warmup_steps)
    height = math.cos(math.pi / 2 * quarter_turns) ** 2
    return height * peak + (1 - height) * floor


def by_sine(step: int, n_steps: int | float, warmup_steps: int, peak: float, floor: float = 0.0) -> float:
    if step < warmup_steps:
        return peak * min(1.0, (step + 1) / warmup_steps)
    done = min(max((step - warmup_steps) / (n_steps - warmup_steps), 0.0), 1.0)
    middle, half = (peak + floor) / 2, (peak - floor) / 2
    return middle - half * math.sin(math.pi * (done - 0.5))


def cosine_by(
    climb: Callable[[int, int], float] = lambda step, warmup: (step + 1) / warmup,
    share: Callable[[int, Any, int], float] = lambda step, n, warmup: min(1.0, (step - warmup) / (n - warmup)),
    wave: Callable[[float], float] = lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    down_to: Callable[[float, float, float], float] = lambda height, peak, floor: floor + (peak - floor) * height,
) -> Callable[..., float]:
    r"""A cosine_lr in which one thing is done in another way."""

    def wrong(step: int, n_steps: int | float, warmup_steps: int, peak: float, floor: float = 0.0) -> float:
        if step < warmup_steps:
            return peak * climb(step, warmup_steps)
        return down_to(wave(share(step, n_steps, warmup_steps)), peak, floor)

    return wrong


def never_warm(step: int, n_steps: int | float, warmup_steps: int, peak: float, floor: float = 0.0) -> float:
    return cosine_by()(max(step, warmup_steps), n_steps, warmup_steps, peak, floor)


COSINE_LR = Exercise(
    id="training.schedule.cosine_lr",
    lesson="08",
    title="Warm up, then half a cosine",
    task="Give the learning rate of one step. `step` counts the steps *before* it, so the first one has 0.\n\n"
    "- In the first `warmup_steps` steps: a straight line, `peak / warmup_steps` at step 0 and `peak` at step "
    "`warmup_steps - 1`.\n"
    "- Then half a cosine wave: `peak` at step `warmup_steps`, `floor` at step `n_steps`.\n"
    "- After that it stays at `floor`.\n\n"
    "`n_steps` may be `math.inf`: then it stays at the peak for ever.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=82,
    hints=(
        "Two cases: `step < warmup_steps`, and the rest.",
        "For the rest you need the share of the way that is done, from 0 to 1. Which two numbers do you divide? What "
        "keeps it from passing 1?",
        "(1 + cos(pi * share)) / 2 goes from 1 to 0. Stretch it, so that it goes from peak to floor.",
    ),
    cases=cosine_cases,
    oracle=squared_cosine,
    other_style=by_sine,
    tolerance=Tolerance(1e-9, 1e-12, "a cosine or a squared cosine, in float64"),
    mistakes=(
        Mistake(
            "starts at zero",
            cosine_by(climb=lambda step, warmup: step / warmup),
            "Your first step has a learning rate of 0, so a whole batch is computed for nothing. Climb by "
            "(step + 1) / warmup_steps.",
        ),
        Mistake(
            "no warm-up",
            never_warm,
            "There is no warm-up: the first step has the full rate, while Adam's averages still rest on one gradient.",
        ),
        Mistake(
            "the wave begins at step 0",
            cosine_by(share=lambda step, n, warmup: min(1.0, step / n)),
            "The wave is counted from step 0, so after the warm-up the rate falls by a jump. Count it from "
            "warmup_steps: (step - warmup_steps) / (n_steps - warmup_steps).",
        ),
        Mistake(
            "the wave is too long",
            cosine_by(share=lambda step, n, warmup: min(1.0, (step - warmup) / n)),
            "You divide by n_steps, but the wave has only n_steps - warmup_steps to go, so it does not come down to "
            "the floor in time.",
        ),
        Mistake(
            "down to zero",
            cosine_by(down_to=lambda height, peak, floor: peak * height),
            "The rate ends at 0: `floor` is not used.",
        ),
        Mistake(
            "cut off at the floor",
            cosine_by(down_to=lambda height, peak, floor: max(floor, peak * height)),
            "You let the wave run to 0 and cut it off at the floor. Stretch it between peak and floor instead: "
            "floor + (peak - floor) * height.",
        ),
        Mistake(
            "floor added on top",
            cosine_by(down_to=lambda height, peak, floor: floor + peak * height),
            "You add the floor to a wave of height peak, so the largest rate is peak + floor. The wave itself is only "
            "peak - floor high.",
        ),
        Mistake(
            "comes up again",
            cosine_by(share=lambda step, n, warmup: (step - warmup) / (n - warmup)),
            "After n_steps your rate rises again, as a cosine does. Keep the share of the way at 1 at most.",
        ),
        Mistake(
            "a whole wave",
            cosine_by(wave=lambda done: 0.5 * (1 + math.cos(2 * math.pi * done))),
            "Your wave goes down and up again: over the whole way the angle must go from 0 to pi, not to 2 pi.",
        ),
        Mistake(
            "a straight line",
            cosine_by(wave=lambda done: 1 - done),
            "The rate comes down in a straight line. That is a good schedule too (`linear_lr`), but here half a cosine "
            "was asked for.",
        ),
    ),
)
