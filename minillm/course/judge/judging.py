r"""Run a function on an exercise's cases and find out which mistake it makes."""

import contextlib
import inspect
import io
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge import diagnosis
from minillm.course.judge.compare import Difference, Tolerance, copy_value, first_difference, tensors_in
from minillm.course.judge.draw import Draw
from minillm.course.judge.limits import TimeLimitReached, call_within
from minillm.course.judge.pristine import pristine
from minillm.course.judge.verdict import Verdict

EXACT = Tolerance(0.0, 0.0, "an argument must not change at all")


@dataclass(frozen=True)
class Case:
    r"""One set of inputs and the right answer to it.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        expected: the oracle's value, or the exception that it raised.
        repeatable: whether it was drawn from the exercise's own seed.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: Any
    repeatable: bool

    @property
    def elements(self) -> int:
        r"""How large the case is; the smallest failing one is shown.

        Returns: the number of tensor elements in the inputs.
        """
        return sum(tensor.numel() for tensor in tensors_in((self.args, self.kwargs)))


@dataclass(frozen=True)
class Outcome:
    r"""What one call did.

    Args:
        value: what came back, or the exception that came out.
        mutated: the arguments (a position or a name) that the call changed.
        printed: what it printed.
        endless: whether it had to be stopped.
    """

    value: Any
    mutated: tuple[int | str, ...] = ()
    printed: str = ""
    endless: bool = False


def draw_cases(exercise: Exercise, seed: int) -> list[Case]:
    r"""Draw an exercise's inputs twice, from its own seed and from another, and let the oracle answer them.

    The first half makes a verdict repeatable, the second half makes it honest.

    Args:
        exercise: whose cases.
        seed: of the second half.
    Returns: the cases, those of the exercise's own seed first.
    """
    cases = []
    with pristine():
        for one in (exercise.seed, seed):
            for args, kwargs in exercise.cases(Draw(one)):
                try:
                    expected = exercise.oracle(*copy_value(args), **copy_value(kwargs))
                except (ValueError, TypeError) as error:  # an input that the function must refuse
                    expected = error
                cases.append(Case(args, kwargs, expected, one == exercise.seed))
    return cases


def judge_function(exercise: Exercise, function: Any, seed: int | None = None) -> Verdict:
    r"""Say whether a function is right, and if not, what is the matter.

    The named mistakes are recognised by behaviour: each is run on the same inputs, and the one that the function agrees
    with, where that mistake is wrong, is the verdict. Failing that comes a general diagnosis.

    Args:
        exercise: what is asked.
        function: the learner's.
        seed: of the new half of the cases; None draws one.
    Returns: the verdict.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    if not callable(function):
        return Verdict("not a function", diagnosis.not_a_function(exercise, function), seed=seed)
    cases = draw_cases(exercise, seed)
    unfit = next((case for case in cases if not _fits(exercise, function, case)), None)
    if unfit is not None:
        return Verdict("signature", diagnosis.wrong_signature(exercise, function), seed=seed)
    outcomes = _run_all(exercise, function, cases)
    if isinstance(outcomes[0].value, NotImplementedError):
        return Verdict("not attempted", diagnosis.NOT_ATTEMPTED, seed=seed)
    with pristine():
        found = [
            _difference(case, outcome, exercise.tolerance) for case, outcome in zip(cases, outcomes, strict=False)
        ]
        if not any(found):
            return Verdict("passed", diagnosis.PASSED, seed=seed)
        failing = [i for i, difference in enumerate(found) if difference]
        shown = min(
            failing, key=lambda i: (not cases[i].repeatable, diagnosis.RANK[found[i].kind], cases[i].elements, i)
        )
        detail = diagnosis.describe(exercise, function, cases[shown], outcomes[shown], found[shown])
        mistake = None if found[shown].kind == "endless" else recognise(exercise, cases, outcomes)
    if mistake is not None:
        return Verdict("mistake", f"{mistake.message}\n\n{detail}", mistake.name, seed)
    headline = diagnosis.headline(exercise, outcomes[shown], found[shown])
    return Verdict(found[shown].kind, f"{headline}\n\n{detail}", seed=seed)


def recognise(exercise: Exercise, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> Mistake | None:
    r"""Find the named mistake that explains every wrong answer.

    Args:
        exercise: whose mistakes.
        cases: all cases.
        outcomes: what the function did on each.
    Returns: the mistake that agrees with the function on all cases; else one that agrees wherever it is itself wrong,
        the one that is wrong most often first; else None.
    """
    best, best_score = None, (False, 0)
    for mistake in exercise.mistakes:
        score = _explains(exercise, mistake, cases, outcomes)
        if score > best_score:
            best, best_score = mistake, score
    return best


def same_outcome(a: Outcome, b: Outcome, tolerance: Tolerance) -> bool:
    r"""Whether two functions did the same on one case.

    Args:
        a: what one did.
        b: what the other did.
        tolerance: for their values.
    Returns: True for equal values and equal changes of the arguments; exceptions are equal if type and message are, but
        for the numbers in it.
    """
    if a.endless or b.endless or a.mutated != b.mutated:
        return a.endless and b.endless
    if isinstance(a.value, BaseException) or isinstance(b.value, BaseException):
        return type(a.value) is type(b.value) and _wording(a.value) == _wording(b.value)
    return first_difference(a.value, b.value, tolerance) is None


def run_case(exercise: Exercise, function: Callable[..., Any], case: Case, seconds: float) -> Outcome:
    r"""Call a function once, on copies of the inputs, and see what it does.

    Args:
        exercise: gives the probe, if there is one.
        function: what is called.
        case: the inputs.
        seconds: when it is stopped.
    Returns: value or exception, changed arguments, and what was printed.
    """
    args, kwargs = copy_value(case.args), copy_value(case.kwargs)
    call = function if exercise.probe is None else lambda *a, **k: exercise.probe(function, *a, **k)
    printed = io.StringIO()
    endless = False
    rng_state = torch.get_rng_state()
    torch.default_generator.manual_seed(exercise.seed)
    with contextlib.redirect_stdout(printed):
        try:
            value = call_within(seconds, lambda: call(*args, **kwargs))
        except KeyboardInterrupt:
            raise
        except TimeLimitReached:
            value, endless = None, True
        except BaseException as error:  # sys.exit() in a learner's function is his error, not our end
            value = error
        finally:
            torch.set_rng_state(rng_state)
    with pristine():
        before = list(enumerate(case.args)) + list(case.kwargs.items())
        changed = [key for key, old in before if first_difference(old, _at(args, kwargs, key), EXACT)]
    return Outcome(value, tuple(changed), printed.getvalue(), endless)


def _run_all(exercise: Exercise, function: Callable[..., Any], cases: Sequence[Case]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for case in cases:
        outcomes.append(run_case(exercise, function, case, exercise.seconds))
        if outcomes[-1].endless or isinstance(outcomes[-1].value, NotImplementedError):
            break
    return outcomes


def _explains(
    exercise: Exercise, mistake: Mistake, cases: Sequence[Case], outcomes: Sequence[Outcome]
) -> tuple[bool, int]:
    r"""How well a mistake explains what a function did: the same on all cases or not, and on how many it is wrong.

    (False, 0) says that it does not, as is known at the first case where the mistake goes wrong in another way.
    """
    everywhere, wrong = True, 0
    for case, outcome in zip(cases, outcomes, strict=False):
        its_own = run_case(exercise, mistake.wrong, case, exercise.seconds)
        differs = bool(_difference(case, its_own, exercise.tolerance))
        same = same_outcome(its_own, outcome, exercise.tolerance)
        if differs and not same:
            return False, 0
        everywhere, wrong = everywhere and same, wrong + differs
    return everywhere and wrong > 0, wrong


def _difference(case: Case, outcome: Outcome, tolerance: Tolerance) -> Difference | None:
    got, expected = outcome.value, case.expected
    if outcome.endless:
        return Difference("endless", "", expected, None)
    if isinstance(expected, BaseException):
        return None if isinstance(got, type(expected)) else Difference("error", "", expected, got)
    if isinstance(got, BaseException):
        return Difference("error", "", expected, got)
    difference = first_difference(expected, got, tolerance)
    if difference is None and outcome.mutated:
        return Difference("mutated", "", expected, got)
    return difference


def _fits(exercise: Exercise, function: Callable[..., Any], case: Case) -> bool:
    if exercise.probe is not None:
        return True
    try:
        inspect.signature(function).bind(*case.args, **case.kwargs)
    except TypeError:
        return False
    except ValueError:  # a function written in C tells nothing about its arguments
        return True
    return True


def _at(args: Sequence[Any], kwargs: dict[str, Any], key: int | str) -> Any:
    return args[key] if isinstance(key, int) else kwargs[key]


def _wording(error: Any) -> str:
    return re.sub(r"[\d.]+", "#", str(error))
