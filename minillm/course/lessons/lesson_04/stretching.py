r"""RoPE for longer texts: the base that keeps the fastest pair, and YaRN's ramp between kept and slowed pairs."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

POWERS = Tolerance(1e-6, 0.0, "one power in float64, taken in another order")
FREQUENCIES = Tolerance(2e-5, 1e-9, "one power in float32")


def ntk_base_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (100.0, 4.0, 4), {}
    yield (10000.0, 8.0, 128), {}
    for _ in range(3):
        yield (float(draw.size(50, 90000)), draw.size(11, 400) / 10, 2 * draw.size(2, 64)), {}
    yield (float(draw.size(50, 90000)), 1.0, 16), {}
    yield (10000.0, 4.0, 2), {}  # these two are to be refused
    yield (10000.0, 0.0, 8), {}


def ntk_refusals(factor: float, head_dim: int) -> None:
    if head_dim < 4 or not factor > 0:
        raise ValueError(f"factor={factor}, head_dim={head_dim}: use a factor above 0 and a head_dim of at least 4")


def ntk_by_search(base: float, factor: float, head_dim: int) -> float:
    r"""Halve an interval of bases until the slowest pair is slower by just the factor."""
    ntk_refusals(factor, head_dim)
    low, high = base * 1e-9, base * factor**3 * 10
    for _ in range(400):
        middle = math.sqrt(low * high)
        slower = (middle / base) ** ((head_dim - 2) / head_dim)
        low, high = (middle, high) if slower < factor else (low, middle)
    return math.sqrt(low * high)


def ntk_other_style(base: float, factor: float, head_dim: int) -> float:
    ntk_refusals(factor, head_dim)
    return math.exp(math.log(base) + math.log(factor) * head_dim / (head_dim - 2))


def ntk_by(rule: Callable[[float, float, int], float]) -> Callable[[float, float, int], float]:
    r"""A wrong rule for the base, which still refuses what must be refused."""

    def wrong(base: float, factor: float, head_dim: int) -> float:
        ntk_refusals(factor, head_dim)
        return float(rule(base, factor, head_dim))

    return wrong


NTK_BASE = Exercise(
    id="layers.rope_scaling.ntk_base",
    lesson="04",
    title="The base for longer texts",
    task="Pair i turns `base^(-2i / Dh)` radians a token, i from 0 to Dh / 2 - 1. Find the larger base at which the "
    "*slowest* pair turns more slowly by exactly `factor`. What happens to the fastest?",
    difficulty=2,
    minutes=10,
    points=2,
    seed=46,
    hints=(
        "Write down how fast the slowest pair turns: which i has it, and what is then the exponent?",
        "You look for a new base b with b^(-(Dh - 2) / Dh) = base^(-(Dh - 2) / Dh) / factor. Solve for b.",
    ),
    cases=ntk_base_cases,
    oracle=ntk_by_search,
    other_style=ntk_other_style,
    tolerance=POWERS,
    mistakes=(
        Mistake(
            "base times factor",
            ntk_by(lambda base, factor, d: base * factor),
            "You multiply the base by the factor. The slowest pair feels the base only through the power "
            "(Dh - 2) / Dh, so the base must grow by a little more: by the factor to the power Dh / (Dh - 2).",
        ),
        Mistake(
            "exponent turned over",
            ntk_by(lambda base, factor, d: base * factor ** ((d - 2) / d)),
            "The exponent stands upside down: solve for the base, and Dh / (Dh - 2), a little more than 1, comes out.",
        ),
        Mistake(
            "exponent counts from one",
            ntk_by(lambda base, factor, d: base * factor ** (d / (d - 1))),
            "Your exponent is Dh / (Dh - 1). The slowest pair is number Dh / 2 - 1, so that 2i is Dh - 2, not Dh - 1.",
        ),
        Mistake(
            "pairs for features",
            ntk_by(lambda base, factor, d: base * factor ** (d / 2 / (d / 2 - 2)) if d > 4 else base * factor),
            "You take Dh / 2 for Dh in the exponent and still subtract 2. Count either in features, Dh / (Dh - 2), "
            "or in pairs, (Dh / 2) / (Dh / 2 - 1): both give the same.",
        ),
        Mistake(
            "the base in the power",
            ntk_by(lambda base, factor, d: (base * factor) ** (d / (d - 2))),
            "You raise base and factor together. Only the factor is raised; with a factor of 1 the base must stay as "
            "it is, and yours does not.",
        ),
        Mistake(
            "smaller base",
            ntk_by(lambda base, factor, d: base * factor ** (-d / (d - 2))),
            "Your base shrinks, and the slow pairs turn *faster*. For longer texts they must turn more slowly: the "
            "base grows.",
        ),
        Mistake(
            "nothing refused",
            lambda base, factor, head_dim: (
                base * factor ** (head_dim / (head_dim - 2)) if head_dim > 2 else base * factor
            ),
            "With a head of two features there is one pair, the fastest and the slowest at once, and no base can "
            "slow it; and a factor of 0 means no text at all. Refuse both with a ValueError that says so.",
        ),
    ),
)


def yarn_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (16, 10000.0, 4.0, 64), {}
    yield (16, 10000.0, 4.0, 64), {"truncate": False}
    yield (128, 10000.0, 8.0, 2048), {}
    for truncate in (True, False):
        slow = draw.size(5, 30) / 10
        yield (
            (2 * draw.size(8, 64), float(draw.choice([500, 10000, 500000])), draw.size(15, 300) / 10,
             draw.size(300, 9000), slow + draw.size(40, 400) / 10, slow),
            {"truncate": truncate},
        )  # fmt: skip
    yield (2 * draw.size(8, 32), 10000.0, 1.0, 512), {}
    yield (16, 10000.0, 4.0, 64, 1.0, 2.0), {}  # these three are to be refused
    yield (16, 10000.0, 0.0, 64), {}
    yield (16, 10000.0, 4.0, 6), {}


def yarn_by(
    mix: Callable[[float, float, float], float] = lambda kept, slowed, ramp: kept * (1 - ramp) + slowed * ramp,
    place: Callable[[int, float, int, float], float] = lambda d, base, length, turns: (
        d / 2 * math.log(length / (2 * math.pi * turns), base)
    ),
    ends: Callable[[float, float], tuple[float, float]] = lambda start, end: (math.floor(start), math.ceil(end)),
    ramp_of: Callable[[float], float] = lambda share: min(max(share, 0.0), 1.0),
) -> Callable[..., Tensor]:
    r"""YaRN pair by pair, with another mix, other ends of the ramp or another ramp."""

    def function(
        head_dim: int, base: float, factor: float, original_len: int, beta_fast: float = 32.0, beta_slow: float = 1.0,
        truncate: bool = True,
    ) -> Tensor:  # fmt: skip
        if beta_slow > beta_fast or not factor > 0 or original_len <= 2 * math.pi * beta_slow:
            raise ValueError(f"beta_fast={beta_fast}, beta_slow={beta_slow}, factor={factor}, {original_len}: no ramp")
        start, end = place(head_dim, base, original_len, beta_fast), place(head_dim, base, original_len, beta_slow)
        if truncate:
            start, end = ends(start, end)
        start, end = max(start, 0), min(end, head_dim - 1)
        kept = [base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        ramps = [ramp_of((i - start) / max(end - start, 0.001)) for i in range(head_dim // 2)]
        return torch.tensor([mix(speed, speed / factor, ramp) for speed, ramp in zip(kept, ramps, strict=True)])

    return function


def yarn_other_style(
    head_dim: int, base: float, factor: float, original_len: int, beta_fast: float = 32.0, beta_slow: float = 1.0,
    truncate: bool = True,
) -> Tensor:  # fmt: skip
    if not (beta_fast >= beta_slow and factor > 0 and original_len > 2 * math.pi * beta_slow):
        raise ValueError(f"factor={factor}, original_len={original_len}, betas {beta_fast} and {beta_slow}: no ramp")
    turns = torch.tensor([beta_fast, beta_slow], dtype=torch.float64)
    start, end = (torch.log(original_len / turns / (2 * torch.pi)) / math.log(base) * head_dim / 2).tolist()
    start, end = (math.floor(start), math.ceil(end)) if truncate else (start, end)
    start, end = max(0, start), min(head_dim - 1, end)
    kept = torch.pow(base, -torch.arange(0, head_dim, 2).double() / head_dim)
    ramp = torch.clip((torch.arange(head_dim // 2) - start) / max(1e-3, end - start), 0, 1)
    return torch.lerp(kept, kept / factor, ramp.double()).float()


YARN_INV_FREQ = Exercise(
    id="layers.rope_scaling.yarn_inv_freq",
    lesson="04",
    title="YaRN: keep the fast pairs, slow the slow ones",
    task="Within `original_len` tokens pair i makes `original_len * base^(-2i / Dh) / (2 pi)` turns. Find the place "
    "`start`, a real number of pairs, that would make `beta_fast` turns, and the place `end` that would make "
    "`beta_slow`. With `truncate`, round `start` down and `end` up. Then `start` is at least 0, `end` at most Dh - "
    "1. A ramp goes from 0 at `start` to 1 at `end` (their distance is at least 0.001) and is flat outside. Where it "
    "is 0 a pair keeps its frequency, where it is 1 the frequency is divided by `factor`, and between it is the mean "
    "of the two, weighted by the ramp.",
    difficulty=3,
    minutes=20,
    points=3,
    seed=47,
    hints=(
        "Solve `original_len * base^(-2i / Dh) / (2 pi) = turns` for i: take the logarithm of both sides.",
        "The more turns, the faster the pair, the smaller its number: `beta_fast` gives the smaller i.",
        "The ramp is a straight line in the number of the pair, clamped to 0..1.",
    ),
    cases=yarn_cases,
    oracle=yarn_by(),
    other_style=yarn_other_style,
    tolerance=FREQUENCIES,
    mistakes=(
        Mistake(
            "ramp upside down",
            yarn_by(mix=lambda kept, slowed, ramp: kept * ramp + slowed * (1 - ramp)),
            "You slow the *fast* pairs and keep the slow ones. It is the slow pairs that come to angles which training "
            "has never shown; the fast ones have turned many times and tell neighbours apart.",
        ),
        Mistake(
            "everything interpolated",
            yarn_by(ramp_of=lambda share: 1.0),
            "All pairs are divided by the factor. That is position interpolation; YaRN keeps the pairs that made more "
            "than `beta_fast` turns.",
        ),
        Mistake(
            "no ramp",
            yarn_by(ramp_of=lambda share: float(share >= 0.5)),
            "You switch from kept to slowed at one pair. Between `start` and `end` the two are mixed, a little more of "
            "the slowed one with each pair.",
        ),
        Mistake(
            "ramp not clamped",
            yarn_by(ramp_of=lambda share: share),
            "Your ramp goes on beyond its ends: below 0 and above 1 the mix is no longer between kept and slowed. "
            "Clamp it to 0..1.",
        ),
        Mistake(
            "no 2 pi",
            yarn_by(place=lambda d, base, length, turns: d / 2 * math.log(length / turns, base)),
            "A turn is 2 pi radians. You count radians as turns, and the ramp stands too far among the slow pairs.",
        ),
        Mistake(
            "features for pairs",
            yarn_by(place=lambda d, base, length, turns: d * math.log(length / (2 * math.pi * turns), base)),
            "Your ramp stands twice as far along: you have found the *feature* 2i where the number i of the pair is "
            "asked for.",
        ),
        Mistake(
            "truncate the other way",
            yarn_by(ends=lambda start, end: (math.ceil(start), math.floor(end))),
            "With `truncate` the ramp becomes wider: `start` is rounded down and `end` up. You make it narrower.",
        ),
        Mistake(
            "truncate ignored",
            yarn_by(ends=lambda start, end: (start, end)),
            "You leave the ends of the ramp between pairs also when `truncate` is True. Then they are rounded to whole "
            "pairs, outwards; models were trained with that.",
        ),
        Mistake(
            "periods mixed",
            yarn_by(mix=lambda kept, slowed, ramp: 1 / ((1 - ramp) / kept + ramp / slowed)),
            "You mix the periods, 1 / frequency, and turn the result over. The mean is taken of the *frequencies*.",
        ),
    ),
)
