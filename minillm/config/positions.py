r"""How the model learns where a token stands: one small frozen type for each method."""

from dataclasses import dataclass

from minillm.config.require import require
from minillm.config.scaling import DynamicNtk, LongRope, Scaling


@dataclass(frozen=True)
class Learned:
    r"""One trained vector for each position, added to the token's. Lesson: 04."""


@dataclass(frozen=True)
class Sinusoidal:
    r"""Fixed sines and cosines, added to the token's vector. Lesson: 04."""

    base: float = 10000.0


@dataclass(frozen=True)
class Recursive:
    r"""Position vectors that a small network makes, each from the one before; added to the token's. Lesson: 04."""


@dataclass(frozen=True)
class Rope:
    r"""Queries and keys turned by angles that grow with the position.

    `share` of a head's features is turned (partial rotary), the first ones; `scaling` slows the angles for texts
    longer than those trained on.
    Lesson: 04.
    """

    base: float = 10000.0
    share: float = 1.0
    scaling: Scaling | None = None

    def __post_init__(self):
        require(self.base > 0, "position.base", self.base, "use a positive number such as 10000.0")
        require(0 < self.share <= 1, "position.share", self.share, "use a share of the features, above 0 and up to 1")

    def depends_on_length(self) -> bool:
        r"""Whether angles change with the length seen, so that cached keys would be out of date. Lesson: 04."""
        return isinstance(self.scaling, DynamicNtk | LongRope)


@dataclass(frozen=True)
class Alibi:
    r"""A penalty on the scores that grows with distance. Lesson: 04."""


@dataclass(frozen=True)
class T5Bias:
    r"""A trained number for each head and bucket of distances, added to the scores; all layers share it. Lesson: 04."""

    n_buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True)
class Shaw:
    r"""A trained vector for each distance up to max_distance, added to keys and to values. Lesson: 04."""

    max_distance: int = 16


@dataclass(frozen=True)
class TransformerXL:
    r"""Scores of four terms: content and sinusoids of the distance, with two trained biases a head. Lesson: 04."""


@dataclass(frozen=True)
class NoPosition:
    r"""No position signal at all; the causal mask alone tells order. Lesson: 04."""


Position = Learned | Sinusoidal | Recursive | Rope | Alibi | T5Bias | Shaw | TransformerXL | NoPosition
POSITIONS = {
    "learned": Learned, "sinusoidal": Sinusoidal, "recursive": Recursive, "rope": Rope, "alibi": Alibi,
    "t5": T5Bias, "shaw": Shaw, "transformer_xl": TransformerXL, "none": NoPosition,
}  # fmt: skip
