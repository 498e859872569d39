r"""An exercise: one function of the package that a learner writes anew, and how it is judged."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.course.judge.verdict import Verdict

PACKAGE = "minillm"
LONGEST = 20  # minutes
FEWEST_MISTAKES = 4


@dataclass(frozen=True)
class Mistake:
    r"""A plausible wrong way to write the function, and what someone who wrote it so should read.

    Args:
        name: a few words, the same in no other mistake of the exercise ("no scale").
        wrong: the function written that way, with the same arguments.
        message: one to three sentences to that learner: what is wrong, why it matters, where to look.
    """

    name: str
    wrong: Callable[..., Any]
    message: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    r"""Everything that a notebook, a test and a grader need to know about one exercise.

    Args:
        id: the reference's path under minillm ("layers.sdpa.sdpa").
        lesson: two digits ("02").
        title: what is built, in a few words.
        task: what to write, as Markdown for the learner; a few lines.
        difficulty: 1 to 3.
        minutes: what it takes, at most 20.
        points: what it is worth to a grader.
        seed: draws the first half of the cases; the second half is new each time.
        hints: Markdown, the mildest first.
        cases: draws the inputs, as pairs of (positional arguments, keyword arguments); several sizes and dtypes.
        oracle: gives the right value, and was not made from the reference.
        mistakes: at least four.
        other_style: a second right way to write the function, for the proofs.
        tolerance: how exact a float must be, and why.
        probe: how the function is called, when its bare value is not what counts: probe(function, *args, **kwargs)
            gives the value that is compared (gradients, the statistics of something random, a sequence of calls).
        seconds: when a call that has not come back is stopped.
    """

    id: str
    lesson: str
    title: str
    task: str
    difficulty: int
    minutes: int
    points: int
    seed: int
    hints: tuple[str, ...]
    cases: Callable[[Draw], Iterable[tuple[tuple[Any, ...], dict[str, Any]]]]
    oracle: Callable[..., Any]
    mistakes: tuple[Mistake, ...]
    other_style: Callable[..., Any]
    tolerance: Tolerance = Tolerance()
    probe: Callable[..., Any] | None = None
    seconds: float = 5.0

    def __post_init__(self) -> None:
        names = [mistake.name for mistake in self.mistakes]
        rules = {
            "id": (bool(re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)+", self.id)), "write the path under minillm"),
            "lesson": (bool(re.fullmatch(r"\d\d", self.lesson)), "write two digits"),
            "difficulty": (self.difficulty in (1, 2, 3), "choose 1, 2 or 3"),
            "minutes": (1 <= self.minutes <= LONGEST, f"split an exercise that takes more than {LONGEST}"),
            "hints": (len(self.hints) >= 1, "write at least one"),
            "mistakes": (len(set(names)) == len(names) >= FEWEST_MISTAKES, f"name {FEWEST_MISTAKES} different ones"),
        }
        for field, (kept, fix) in rules.items():
            if not kept:
                value = names if field == "mistakes" else getattr(self, field)
                raise ValueError(f"exercise {self.id}: {field} is {value!r}; {fix}")

    @property
    def name(self) -> str:
        r"""The function's own name.

        Returns: "sdpa" for "layers.sdpa.sdpa".
        """
        return self.id.rpartition(".")[2]

    @property
    def module_name(self) -> str:
        r"""The module in which the function lives.

        Returns: "minillm.layers.sdpa" for "layers.sdpa.sdpa".
        """
        return f"{PACKAGE}.{self.id.rpartition('.')[0]}"

    @property
    def reference(self) -> Callable[..., Any]:
        r"""The course's own function, also while a learner's is switched in.

        Returns: the function in the package.
        """
        function = getattr(importlib.import_module(self.module_name), self.name)
        return getattr(function, "course_reference", function)

    @property
    def parameters(self) -> inspect.Signature:
        r"""The reference's signature.

        Returns: what inspect.signature says of it.
        """
        return inspect.signature(self.reference)

    def judge(self, function: Any, seed: int | None = None) -> Verdict:
        r"""Say whether a function does what the exercise asks, and if not, which mistake it is.

        Args:
            function: the learner's; anything at all.
            seed: draws the second half of the cases; None for new ones.
        Returns: the verdict, never an exception of the function's own.
        """
        from minillm.course.judge.judging import judge_function  # judging needs Exercise

        return judge_function(self, function, seed)
