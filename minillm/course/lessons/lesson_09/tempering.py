r"""Temperature."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_09.keeping import Case, drawn_logits


def temperature_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([1.0, 3.0, 2.0]), 0.5), {}
    for logits in drawn_logits(draw):
        yield (logits, draw.size(2, 9) / 10), {}
        yield (logits, draw.size(12, 40) / 10), {}
    yield (draw.normal(2, 5), 1.0), {}
    yield (draw.normal(2, 5), 0.0), {}  # to be refused
    yield (draw.normal(2, 5), -draw.size(1, 20) / 10), {}


def divided_singly(logits: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError("not above 0")
    divided = [x / temperature for x in logits.flatten().tolist()]
    return torch.tensor(divided, dtype=logits.dtype).view(logits.shape)


def refused(function: Any) -> Any:
    r"""A wrong way that at least refuses what is not above 0."""

    def wrong(logits: Tensor, temperature: float) -> Tensor:
        if temperature <= 0:
            raise ValueError("not above 0")
        return function(logits, temperature)

    return wrong


APPLY_TEMPERATURE = Exercise(
    id="inference.sampling.apply_temperature",
    lesson="09",
    title="Temperature",
    task="Return the logits at a temperature: new *logits*, whose softmax is sharper for a temperature below 1 and "
    "flatter above 1. A temperature of 0 or below must be refused with a ValueError.",
    difficulty=1,
    minutes=5,
    points=2,
    seed=91,
    hints=(
        "In physics a state of energy E has a weight exp(-E / T). What stands in place of -E here?",
        "At temperature 0.5 the logits 1, 3, 2 become 2, 6, 4: their distances double, and with them the odds are "
        "squared.",
    ),
    cases=temperature_cases,
    oracle=divided_singly,
    other_style=refused(lambda logits, temperature: logits * (1.0 / temperature)),
    mistakes=(
        Mistake(
            "multiplied",
            refused(lambda logits, temperature: logits * temperature),
            "You multiply by the temperature. Then a high temperature sharpens the distribution, and it should flatten "
            "it.",
        ),
        Mistake(
            "probabilities returned",
            refused(lambda logits, temperature: (logits / temperature).softmax(-1)),
            "You return probabilities. The filters that come next want logits, and so does the softmax at the end: a "
            "softmax of a softmax is nearly flat.",
        ),
        Mistake(
            "probabilities divided",
            refused(lambda logits, temperature: logits.softmax(-1) / temperature),
            "You divide probabilities. They no longer add up to 1, and dividing all of them by one number changes no "
            "ratio: divide the logits.",
        ),
        Mistake(
            "logarithms of probabilities",
            refused(lambda logits, temperature: logits.log_softmax(-1) / temperature),
            "You normalize before you divide. The distribution comes out right, but these are no longer the model's "
            "logits, only shifted ones: a penalty that looks at their sign would act differently.",
        ),
        Mistake(
            "shifted",
            refused(lambda logits, temperature: logits - temperature),
            "You subtract the temperature. Adding one number to all logits changes nothing in their softmax.",
        ),
        Mistake(
            "zero accepted",
            lambda logits, temperature: logits / temperature,
            "You divide by 0 when the temperature is 0, or turn the order round when it is below. Refuse both with a "
            "ValueError; the greedy choice is an argmax, not a division.",
        ),
        Mistake(
            "input changed",
            refused(lambda logits, temperature: logits.div_(temperature)),
            "The result is right, but the caller's logits have been changed. `/=` works in place; make a new tensor.",
        ),
    ),
)
