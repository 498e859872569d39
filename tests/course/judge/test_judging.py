r"""The judge itself, on a small exercise of its own: what every learner may do to it."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minillm.course import exercises
from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.verdict import Verdict

SOFTMAX = next(exercise for exercise in exercises() if exercise.name == "softmax")


def small_exercise(oracle: Callable[..., Any], **changes: Any) -> Exercise:
    def cases(draw: Any) -> Any:
        for size in draw.sizes(3, 2, 6):
            yield (draw.normal(size, 3), 2), {}

    wrongs = {"zero": 0.0, "minus": -1.0, "double": 2.0, "half": 0.5}
    fields: dict[str, Any] = dict(
        id="layers.softmax.softmax", lesson="00", title="t", task="t", difficulty=1, minutes=5, points=1, seed=3,
        hints=("h",), cases=cases, oracle=oracle, other_style=oracle, seconds=0.5,
        mistakes=tuple(
            Mistake(name, lambda x, n, factor=factor: x * factor, f"You multiplied by {factor}: look at the sign.")
            for name, factor in wrongs.items()
        ),
    )  # fmt: skip
    return Exercise(**fields | changes)


def power(x: Tensor, n: int) -> Tensor:
    return x.pow(n)


EXERCISE = small_exercise(power)


def judged(function: Any) -> Verdict:
    return EXERCISE.judge(function, 5)


def test_right_function_passes() -> None:
    assert judged(power).passed
    assert judged(lambda x, n: x**n).passed


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (lambda x, n: None, "none", "return"),
        (lambda x, n: 3.0, "type", "a float, not a tensor"),
        (lambda x, n: x[0], "shape", "expected shape: ("),
        (lambda x, n: x.double() ** n, "dtype", "torch.float64"),
        (lambda x, n: x / 0 * 0, "nan", "NaN"),
        (lambda x, n: x**n + 1, "values", "expected one + 1"),
        (lambda x, n: x**n * 3, "values", "3 times"),
        (lambda x, n: (x**n).flip(0), "values", "another order"),
        (lambda x, n: x.pow_(n), "mutated", "changed:  x"),
        (lambda x, n: x.nothing, "error", "AttributeError"),
        (lambda x, n: (_ for _ in ()).throw(SystemExit(3)), "error", "SystemExit"),
        (lambda x: x, "signature", "softmax(x)"),
        (lambda x, n: [], "type", "a list, not a tensor"),
        (3, "not a function", "an int"),
        (torch, "not a function", "module"),
    ],
)
def test_general_diagnosis(function: Any, kind: str, words: str) -> None:
    verdict = judged(function)
    assert (verdict.kind, verdict.mistake) == (kind, None), verdict
    assert words in verdict.message, verdict.message


def test_stub_and_line_of_an_error() -> None:
    def stub(x: Any, n: Any) -> Any:
        raise NotImplementedError

    def broken(x: Any, n: Any) -> Any:
        return x + undefined  # noqa: F821

    assert judged(stub).kind == "not attempted"
    assert "return x + undefined" in judged(broken).message


def test_prints_are_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = judged(lambda x, n: print("looking at", n))
    assert verdict.message.count("looking at 2") == 1
    assert capsys.readouterr().out == ""


def endless(x: Any, n: Any) -> Any:
    while True:
        try:
            n += 1
        except:  # noqa: E722  (what a learner may write)
            pass


@pytest.mark.parametrize("in_thread", [False, True])
def test_endless_loop_is_stopped(in_thread: bool) -> None:
    verdicts: list[Verdict] = []
    started = time.monotonic()
    if in_thread:
        thread = threading.Thread(target=lambda: verdicts.append(judged(endless)))
        thread.start()
        thread.join(20)
    else:
        verdicts.append(judged(endless))
    assert verdicts[0].kind == "endless"
    assert "loop" in verdicts[0].message
    assert time.monotonic() - started < 20  # it came to an end at all


def test_inputs_are_as_drawn_for_the_next_call() -> None:
    r"""Each call gets copies: what one function spoils, no other meets."""
    assert judged(lambda x, n: x.mul_(-1.0)).kind in ("mutated", "values")
    assert judged(lambda x, n: x * -1.0).mistake == "minus"


PATCHES = {
    "torch.allclose": (torch, "allclose", lambda *a, **k: True),
    "torch.equal": (torch, "equal", lambda *a, **k: True),
    "Tensor.__eq__": (torch.Tensor, "__eq__", lambda a, b: torch.ones(1, dtype=torch.bool)),
    "Tensor.__sub__": (torch.Tensor, "__sub__", lambda a, b: torch.zeros(1)),
    "Tensor.any": (torch.Tensor, "any", lambda *a, **k: False),
    "torch.softmax": (torch, "softmax", lambda x, dim: x),
    "torch.where": (torch, "where", lambda *a: torch.zeros(1, dtype=torch.bool)),
    "isinstance": (__import__("builtins"), "any", lambda *a: False),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patching_torch_does_not_help(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, attribute, patch = PATCHES[name]
    monkeypatch.setattr(place, attribute, patch, raising=False)
    wrong = SOFTMAX.judge(lambda x, dim=-1: x, 1)
    right = SOFTMAX.judge(SOFTMAX.other_style, 1)
    still_patched = getattr(place, attribute) is patch
    monkeypatch.undo()
    assert not wrong.passed
    assert right.passed or name.startswith("Tensor."), "only what the learner's own function calls may break it"
    assert still_patched, "the notebook is the learner's: what was patched is put back"


def test_tensor_subclass_that_equals_everything_does_not_pass() -> None:
    class Agreeable(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_function__(func, types, args, kwargs or {})
            lies = isinstance(result, torch.Tensor) and result.dtype == torch.bool
            return torch.zeros_like(result) if lies else result

    assert not judged(lambda x, n: x.as_subclass(Agreeable)).passed


@pytest.mark.parametrize(
    ("right", "wrong", "kind"),
    [
        (7, 8, "values"),
        (7, 7.0, "type"),
        (7, True, "type"),
        (True, 1, "type"),
        (0.5, 0.5 + 1e-3, "values"),
        (float("inf"), 1e30, "values"),
        ("ab", "ba", "values"),
        ([1, 2], [1, 2, 3], "length"),
        ([1, 2], (1, 2), "type"),
        ((torch.ones(2), 3), (torch.ones(2), 4), "values"),
        ({"a": 1}, {"b": 1}, "keys"),
        ({"a": [torch.ones(2)]}, {"a": [torch.zeros(2)]}, "values"),
        (torch.tensor([True]), torch.tensor([False]), "values"),
        (None, 3, "type"),
        ({1, 2}, {1, 3}, "values"),
    ],
)
def test_every_kind_of_value_is_compared(right: Any, wrong: Any, kind: str) -> None:
    exercise = small_exercise(lambda x, n: right)
    assert exercise.judge(lambda x, n: right).passed
    assert exercise.judge(lambda x, n: wrong).kind == kind


def test_input_that_must_be_refused() -> None:
    def oracle(x: Tensor, n: int) -> Tensor:
        raise ValueError

    def refuses(x: Tensor, n: int) -> Tensor:
        raise ValueError("n must be 3")

    def breaks(x: Tensor, n: int) -> Tensor:
        raise KeyError("n")

    exercise = small_exercise(oracle)
    assert exercise.judge(refuses).passed
    assert "must refuse" in exercise.judge(lambda x, n: x**n).message
    assert exercise.judge(breaks).kind == "error"


def test_probe_sees_what_the_bare_value_hides() -> None:
    def gradient(function: Callable[..., Any], x: Tensor, n: int) -> Tensor:
        x.requires_grad_(True)
        return torch.autograd.grad(function(x, n).sum(), x)[0]

    exercise = small_exercise(lambda x, n: n * x ** (n - 1), probe=gradient)
    assert exercise.judge(power).passed
    assert exercise.judge(lambda x, n: x**n + 5).passed
    assert not exercise.judge(lambda x, n: x**n + x).passed


def random_exercise(**changes: Any) -> Exercise:
    r"""An exercise whose function draws from a generator that it is given."""

    def cases(draw: Any) -> Any:
        for n in draw.sizes(3, 3, 9):
            yield (n, draw.new_generator()), {}

    wrongs = {
        "shifted": lambda n, generator: torch.rand(n, generator=generator) + 1,
        "halved": lambda n, generator: torch.rand(n, generator=generator) / 2,
        "seeded anew": lambda n, generator: torch.rand(n, generator=generator.manual_seed(0)),
        "global": lambda n, generator: torch.rand(n),
    }
    mistakes = tuple(Mistake(name, wrong, f"Your numbers are {name}: look again.") for name, wrong in wrongs.items())
    return small_exercise(**{"oracle": drawn, "cases": cases, "mistakes": mistakes} | changes)


def drawn(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator)


def test_using_up_randomness_is_no_change_of_an_input() -> None:
    r"""A generator is there to be advanced, and each run gets one in the same state."""
    exercise = random_exercise()
    assert exercise.judge(drawn).passed
    for mistake in exercise.mistakes:
        assert exercise.judge(mistake.wrong).mistake == mistake.name
    in_a_list = random_exercise(
        cases=lambda draw: [((3, [draw.new_generator()]), {})] * 3, oracle=lambda n, generators: drawn(n, *generators)
    )
    assert in_a_list.judge(lambda n, generators: drawn(n, generators[0])).passed
    emptied = in_a_list.judge(lambda n, generators: drawn(n, generators.pop()))
    assert (emptied.kind, emptied.mistake) == ("mutated", None)


def test_probe_may_call_again_and_again_with_one_generator() -> None:
    def two_draws(function: Callable[..., Any], n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return function(n, generator), function(n, generator)

    exercise = random_exercise(probe=two_draws, oracle=lambda n, g: two_draws(drawn, n, g))
    assert exercise.judge(drawn).passed
    assert exercise.judge(lambda n, generator: drawn(n, generator.clone_state())).kind == "values"


def test_python_s_own_generators_are_copied_too() -> None:
    def rolled(n: int, rng: random.Random) -> list[int]:
        return [rng.randrange(1000) for _ in range(n)]

    exercise = random_exercise(
        oracle=rolled, cases=lambda draw: [((n, random.Random(draw.size(0, 10**6))), {}) for n in (3, 5)]
    )
    assert exercise.judge(rolled).passed
    assert not exercise.judge(lambda n, rng: sorted(rolled(n, rng)), 1).passed


def test_two_mistakes_that_behave_alike_are_found() -> None:
    twin = Mistake("twin", lambda x, n: -x, "Another message for the same behaviour as the second.")
    exercise = small_exercise(power, mistakes=(*EXERCISE.mistakes, twin))
    assert exercise.judge(twin.wrong).mistake != "twin"


@pytest.mark.parametrize(
    ("field", "value"),
    [("minutes", 21), ("difficulty", 4), ("hints", ()), ("lesson", "2"), ("id", "sdpa"), ("mistakes", ())],
)
def test_incomplete_exercise_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        small_exercise(power, **{field: value})
