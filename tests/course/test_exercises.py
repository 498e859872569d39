r"""The proofs that every exercise must pass: a check is only as good as the mistakes it names."""

import functools
from typing import Any

import pytest
import torch

from minillm.course import exercises
from minillm.course.exercise import Exercise
from minillm.course.judge import judging
from minillm.course.judge.judging import draw_cases
from minillm.course.source import stub_source

EVERY = pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.id)
SEEDS = 2


@EVERY
def test_reference_passes(exercise: Exercise, fresh_seed: int) -> None:
    for seed in range(fresh_seed, fresh_seed + SEEDS):
        verdict = exercise.judge(exercise.reference, seed)
        assert verdict.passed, verdict.message


@EVERY
def test_second_style_passes(exercise: Exercise, fresh_seed: int) -> None:
    for seed in range(fresh_seed, fresh_seed + SEEDS):
        verdict = exercise.judge(exercise.other_style, seed)
        assert verdict.passed, verdict.message


@EVERY
def test_stub_is_not_attempted(exercise: Exercise) -> None:
    namespace: dict = {}
    exec(stub_source(exercise), namespace)
    assert exercise.judge(namespace[exercise.name]).kind == "not attempted"


@EVERY
def test_every_mistake_is_rejected_by_its_name(
    exercise: Exercise, fresh_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "draw_cases", functools.cache(draw_cases))  # the same for each mistake: drawn once
    for mistake in exercise.mistakes:
        verdicts = [exercise.judge(mistake.wrong, seed) for seed in range(fresh_seed, fresh_seed + SEEDS)]
        for verdict in verdicts:
            assert (verdict.kind, verdict.mistake) == ("mistake", mistake.name), verdict
            assert verdict.message.startswith(mistake.message)
        # The text that a notebook shows must not depend on the new half of the cases.
        assert len({verdict.message for verdict in verdicts}) == 1


@EVERY
def test_mistakes_tell_different_things(exercise: Exercise) -> None:
    messages = [mistake.message for mistake in exercise.mistakes]
    assert len(set(messages)) == len(messages)
    assert all(len(message) >= 40 for message in messages)


@EVERY
def test_every_new_case_is_drawn_afresh(exercise: Exercise, fresh_seed: int) -> None:
    def drawn(seed: int) -> list[str]:
        return [_shown((case.args, case.kwargs)) for case in draw_cases(exercise, seed) if not case.repeatable]

    assert drawn(fresh_seed) == drawn(fresh_seed)
    assert drawn(fresh_seed) != drawn(fresh_seed + 1)
    assert len(drawn(fresh_seed)) >= 3


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return _shown(list(value.items()))
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(part) for part in value)
    return type(value).__name__ if callable(value) or isinstance(value, torch.Generator) else repr(value)
