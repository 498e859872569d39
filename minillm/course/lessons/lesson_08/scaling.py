r"""The loss scale that fp16 needs, found by trying."""

from collections.abc import Callable, Iterator
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def scaling_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (2.0 ** draw.size(4, 16), 7, [True], 10), {}
    yield (2.0 ** draw.size(4, 16), 998, [False, False, False], 1000), {}
    for _ in range(3):
        interval = draw.size(3, 6)
        overflows = draw.booleans(8 * interval, share=0.1)
        overflows[2 * interval : 4 * interval] = False  # long enough to grow
        overflows[4 * interval + 1] = True
        yield (2.0 ** draw.size(4, 16), draw.size(0, 2), overflows.tolist(), interval), {}


def over_a_run(
    function: Callable[..., Any], scale: float, good_steps: int, overflows: list[bool], growth_interval: int
) -> list[tuple[float, int]]:
    r"""The scale and the count after each of several steps."""
    path = []
    for overflow in overflows:
        scale, good_steps = function(scale, good_steps, overflow, growth_interval=growth_interval)
        path.append((float(scale), good_steps))
    return path


def by_looking_back(
    scale: float, good_steps: int, overflows: list[bool], growth_interval: int
) -> list[tuple[float, int]]:
    r"""Each state from the whole history: where it was quiet last since, and how many intervals fit in there."""
    history = [False] * good_steps + overflows
    path = []
    for end in range(good_steps + 1, len(history) + 1):
        quiet, doubled = 0, 0
        halved = sum(history[:end])
        for overflow in history[:end]:
            quiet = 0 if overflow else quiet + 1
            doubled += quiet > 0 and quiet % growth_interval == 0
        path.append((scale * 2.0 ** (doubled - halved), quiet % growth_interval))
    return path


def with_one_product(scale: float, good_steps: int, overflow: bool, growth_interval: int = 1000) -> tuple[float, int]:
    count = 0 if overflow else (good_steps + 1) % growth_interval
    factor = 0.5 if overflow else (2.0 if count == 0 else 1.0)
    return scale * factor, count


def scaled_by(
    on_overflow: Callable[[float, int], tuple[float, int]] = lambda scale, good: (scale / 2, 0),
    due: Callable[[int, int], bool] = lambda good, interval: good + 1 == interval,
    grown: Callable[[float, int], tuple[float, int]] = lambda scale, good: (scale * 2, 0),
) -> Callable[..., tuple[float, int]]:
    r"""A loss_scale_step in which one thing is done in another way."""

    def wrong(scale: float, good_steps: int, overflow: bool, growth_interval: int = 1000) -> tuple[float, int]:
        if overflow:
            return on_overflow(scale, good_steps)
        return grown(scale, good_steps) if due(good_steps, growth_interval) else (scale, good_steps + 1)

    return wrong


LOSS_SCALE_STEP = Exercise(
    id="training.precision.loss_scale_step",
    lesson="08",
    title="The loss scale",
    task="After each step, decide by which factor the next loss is multiplied.\n\n"
    "- If the gradients held inf or nan (`overflow`): half the scale, and the count of good steps begins anew.\n"
    "- Otherwise this was one more good step. When there have been `growth_interval` of them in a row: twice the "
    "scale, and the count begins anew.\n\n"
    "Return the scale and the count.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=85,
    hints=(
        "Three cases, three returns.",
        "`good_steps` is the count *before* this step. After a good one it is one more; is that the interval?",
    ),
    cases=scaling_cases,
    oracle=by_looking_back,
    probe=over_a_run,
    other_style=with_one_product,
    tolerance=Tolerance(0.0, 0.0, "powers of two are exact"),
    mistakes=(
        Mistake(
            "doubled on overflow",
            scaled_by(on_overflow=lambda scale, good: (scale * 2, 0)),
            "After an overflow you make the scale larger, so the next step overflows more. Large gradients were the "
            "trouble: halve it.",
        ),
        Mistake(
            "never grows",
            scaled_by(due=lambda good, interval: False),
            "The scale only ever falls. As training goes on gradients shrink, and more of them are lost below fp16's "
            "smallest number: double the scale after growth_interval good steps.",
        ),
        Mistake(
            "grows each step",
            scaled_by(due=lambda good, interval: True),
            "You double the scale after every good step, so about every second step overflows and is thrown away.",
        ),
        Mistake(
            "one step late",
            scaled_by(due=lambda good, interval: good == interval),
            "The scale grows one step too late: `good_steps` does not yet hold the step that has just gone well.",
        ),
        Mistake(
            "count kept after an overflow",
            scaled_by(on_overflow=lambda scale, good: (scale / 2, good)),
            "After an overflow the count goes on, so the scale can grow again at once. It must begin anew: good steps "
            "*in a row* are asked for.",
        ),
        Mistake(
            "overflow counted as good",
            scaled_by(on_overflow=lambda scale, good: (scale / 2, 1)),
            "The step that overflowed is counted as a good one. The count after it is 0.",
        ),
        Mistake(
            "count kept after growth",
            scaled_by(due=lambda good, interval: good + 1 >= interval, grown=lambda scale, good: (scale * 2, good + 1)),
            "After the scale has grown the count goes on, so it grows again with every further step. Begin the count "
            "anew.",
        ),
        Mistake(
            "back to one",
            scaled_by(on_overflow=lambda scale, good: (1.0, 0)),
            "An overflow throws the scale back to 1, and it takes many intervals until it is useful again. Halve it.",
        ),
    ),
)
