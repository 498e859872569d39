r"""Lesson 06: the bug that is shown is the bug that is run, and a training runs the learner's code."""

import re
from dataclasses import replace

import pytest
import torch

from minillm.bench.variants import harness
from minillm.config import Experts, Mlp, ModelConfig
from minillm.course import mine, shelf
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_06.capacity import WITHIN_CAPACITY, different_choices, first_choices_first
from minillm.layers.moe import within_capacity

SMALL = replace(harness.BASE, d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8)
EXPERTS = replace(SMALL, ffn=Experts(4, 2, 6, capacity_factor=1.0))
# What a step of training goes through, and with which FFN.
USED = {
    "layers.activations.gelu_tanh": replace(SMALL, ffn=Mlp(8, "gelu_tanh")),
    "layers.activations.swish": replace(SMALL, ffn=Mlp(8, "silu")),
    "layers.gated.swiglu": EXPERTS, "layers.moe.top_k_route": EXPERTS, "layers.moe.load_balance_loss": EXPERTS,
    "layers.moe.within_capacity": EXPERTS,
}  # fmt: skip


@pytest.fixture(autouse=True)
def empty_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())


def train_a_little(config: ModelConfig) -> None:
    recipe = replace(harness.small_recipe(2), balance=0.01)
    harness.train_variant(config, 0, train_len=8, batch_size=2, steps=2, recipe=recipe)


@pytest.mark.parametrize("part", USED)
def test_training_raises_where_a_part_of_the_learner_raises(part: str) -> None:
    with mine.active():
        train_a_little(USED[part])
    assert {name: calls for name, _, calls in mine.table().rows}[part] >= 2
    source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
    shelf.IN_MEMORY.keep_attempt(part, source)
    with pytest.raises(ArithmeticError, match="mine"), mine.active():
        train_a_little(USED[part])


def test_the_bug_that_is_shown_is_the_bug_that_is_run(fresh_seed: int) -> None:
    code = re.search(r"```python\n(.*?)```", WITHIN_CAPACITY.task, re.DOTALL)[1]
    namespace: dict = {"torch": torch}
    exec(code, namespace)
    indices = different_choices(Draw(fresh_seed), 12, 4, 2)
    assert torch.equal(namespace["within_capacity"](indices, 4, 5), first_choices_first(indices, 4, 5))
    assert WITHIN_CAPACITY.judge(namespace["within_capacity"]).mistake == "first choices first"


def test_the_bug_leaks_and_the_course_s_own_does_not(fresh_seed: int) -> None:
    draw, moved = Draw(fresh_seed), {first_choices_first: 0, within_capacity: 0}
    for _ in range(60):
        early, one, other = (different_choices(draw, 12, 6, 2) for _ in range(3))
        for order in moved:
            fates = [order(torch.cat([early, late]), 6, 6)[:12] for late in (one, other)]
            moved[order] += not torch.equal(*fates)
    assert moved[within_capacity] == 0 < moved[first_choices_first]
