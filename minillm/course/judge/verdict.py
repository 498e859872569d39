r"""What the course says about one attempt."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "passed", "not attempted", "missing", "not a function", "syntax", "signature", "endless", "error",
    "mistake", "none", "type", "keys", "length", "shape", "dtype", "nan", "values", "mutated",
]  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    r"""The outcome of judging a function.

    Args:
        kind: "passed", "mistake" (one of the exercise's named ones), or what is the matter in general.
        message: what the learner reads; short.
        mistake: the name of the exercise's mistake, or None.
        seed: the seed of the new half of the cases.
    """

    kind: Kind
    message: str
    mistake: str | None = None
    seed: int | None = None

    @property
    def passed(self) -> bool:
        r"""Whether the function is right.

        Returns: True for kind "passed".
        """
        return self.kind == "passed"
