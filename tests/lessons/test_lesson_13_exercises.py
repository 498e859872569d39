r"""Lesson 13, exercises: the bug that is shown is the one that is meant, and no case lies on a border between codes."""

import re

import torch
import torch.nn.functional as F

from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_13 import normal_codes, training_through
from minillm.inference.quantization import nf4
from minillm.tuning import adapted, low_rank


def shown_function():
    r"""The function in the task of the bug, as a learner would copy it."""
    exercise = training_through.ADAPTED_LINEAR
    (code,) = re.findall(r"```python\n(.*?)```", exercise.task, re.DOTALL)
    names = {"torch": torch, "F": F, "low_rank": low_rank}
    exec(code, names)
    return names[exercise.name]


def test_the_shown_bug_is_the_first_mistake() -> None:
    exercise = training_through.ADAPTED_LINEAR
    assert exercise.judge(shown_function()).mistake == exercise.mistakes[0].name == "the bug is still there"


def test_the_shown_bug_hides_in_one_layer_and_shows_below_it(fresh_seed: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed)
    weight = torch.randn(5, 5, generator=generator)
    upper, lower = (low_rank.lora_init(5, 5, 2, generator) for _ in range(2))
    x = torch.randn(3, 5, generator=generator)
    gradients = {}
    for name, layer in (("bug", shown_function()), ("mended", adapted.adapted_linear)):
        (a, b), (c, d) = ([each.clone().requires_grad_() for each in pair] for pair in (lower, upper))
        layer(layer(x, weight, None, a, b, 2.0), weight, None, c, d, 2.0).square().sum().backward()
        gradients[name] = [b.grad, d.grad]
    assert torch.equal(gradients["bug"][1], gradients["mended"][1])
    assert not gradients["bug"][0].any() and gradients["mended"][0].any()


def test_numbers_lie_near_codes_and_clear_of_the_borders(fresh_seed: int) -> None:
    levels = torch.tensor(normal_codes.PRINTED, dtype=torch.float64)
    torch.testing.assert_close(nf4.normal_levels().double(), levels, atol=2e-7, rtol=0)
    numbers = normal_codes.numbers_near_levels(Draw(fresh_seed), 6, 9)
    for dtype, margin in ((torch.float32, 0.39), (torch.bfloat16, 0.3)):
        rounded = numbers.to(dtype).double()
        shares = rounded / rounded.abs().amax(1, keepdim=True)
        nearest, second = (shares[..., None] - levels).abs().sort(-1).values[..., :2].unbind(-1)
        gap = nearest + second  # between the two neighbours, for numbers that lie between two
        assert bool(((second - nearest) / gap > margin).all())
