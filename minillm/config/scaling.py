r"""Ways to slow RoPE down for texts longer than those trained on, each a small frozen type. Lesson: 04.

`factor` is by how much longer the texts are to be, `original_len` the length in training.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PositionInterpolation:
    r"""Every pair slower by the factor, as if positions lay closer together. Lesson: 04."""

    factor: float


@dataclass(frozen=True)
class NtkAware:
    r"""A larger base: the slowest pair slower by the factor, the fastest untouched. Lesson: 04."""

    factor: float


@dataclass(frozen=True)
class DynamicNtk:
    r"""As `NtkAware`, with a base that grows with the length seen, from original_len on. Lesson: 04."""

    factor: float
    original_len: int


@dataclass(frozen=True)
class Yarn:
    r"""Fast pairs untouched, slow pairs interpolated, a ramp between; and queries and keys times `amplitude`.

    Pairs that turn more than `beta_fast` times within original_len count as fast, less than `beta_slow` as slow;
    `truncate` rounds the ends of the ramp to whole pairs. `amplitude` None: 0.1 ln(factor) + 1.
    Lesson: 04.
    """

    factor: float
    original_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    amplitude: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class Llama3Scaling:
    r"""As YaRN with another ramp, by wavelength, and no amplitude: the rule of LLaMA 3.1. Lesson: 04."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_len: int


@dataclass(frozen=True)
class LongRope:
    r"""A factor found by search for every pair: `short` up to original_len, `long` beyond; times amplitude.

    Lesson: 04.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_len: int
    amplitude: float = 1.0

    def __post_init__(self):  # JSON has no tuples
        object.__setattr__(self, "short", tuple(self.short))
        object.__setattr__(self, "long", tuple(self.long))


@dataclass(frozen=True)
class Proportional:
    r"""Only a share of the pairs turns, the fast ones; the rest stand still. And all are slower by the factor.

    Other than with `Rope.share`, a pair that turns is as fast as if all did. Lesson: 04.
    """

    share: float = 1.0
    factor: float = 1.0


Scaling = PositionInterpolation | NtkAware | DynamicNtk | Yarn | Llama3Scaling | LongRope | Proportional
SCALINGS = {
    "interpolation": PositionInterpolation, "ntk": NtkAware, "dynamic_ntk": DynamicNtk, "yarn": Yarn,
    "llama3": Llama3Scaling, "longrope": LongRope, "proportional": Proportional,
}  # fmt: skip
