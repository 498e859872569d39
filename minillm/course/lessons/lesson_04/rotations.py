r"""RoPE in two steps: how far every pair turns, and the turning."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_04.sinusoids import (
    BASE_FIXED,
    COUNTED_FROM_ZERO,
    HALF_EXPONENT,
    NO_BATCH_OF_POSITIONS,
    PADDING_TURNED,
    UPSIDE_DOWN,
    counted_from_zero,
    counting_pairs,
    drawn_positions,
    upside_down,
)

ANGLES = Tolerance(1e-5, 1e-6, "one power and one product in float32")
TURNED = Tolerance(1e-5, 1e-5, "cosines and sines may be taken in float32 or in float64")


def rope_angles_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for number, positions in enumerate(drawn_positions(draw)):
        yield (positions, 2 * draw.size(2, 5)), {} if number % 2 == 0 else {"base": float(draw.size(50, 900))}
    yield (torch.arange(3), 4), {"base": 100.0}
    yield (torch.arange(4), 2), {}


def rope_angles_by_loops(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    pairs = range(head_dim // 2)
    rows = [max(place, 0) * math.exp(-2 * i / head_dim * math.log(base)) for place in positions.flatten().tolist()
            for i in pairs]  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64).reshape(*positions.shape, len(pairs)).float()


def rope_angles_other_style(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    inv_freq = 1.0 / torch.pow(base, torch.arange(0, head_dim, 2).float() / head_dim)
    return torch.einsum("...t,i->...ti", torch.relu(positions).float(), inv_freq)


def rope_angles_by(
    inv_freq: Callable[[int, float], Tensor] = lambda d, base: base ** (-torch.arange(0, d, 2) / d),
    places: Callable[[Tensor], Tensor] = lambda positions: positions.clamp(min=0),
) -> Callable[..., Tensor]:
    r"""The angles with other frequencies or other places."""
    return lambda positions, head_dim, base=10000.0: (
        places(positions)[..., None].float() * inv_freq(head_dim, base).float()
    )


ROPE_ANGLES = Exercise(
    id="layers.rope.rope_angles",
    lesson="04",
    title="How far each pair has turned",
    task="Pair i of a head turns by `base^(-2i / Dh)` radians a token. Give the angle of every pair at every position: "
    "one more axis, of length Dh / 2, behind those of `positions`. Padding (-1) counts as position 0.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=42,
    hints=(
        "The frequencies are those of `sinusoidal`, with the width of a *head* in place of that of the model.",
        "An angle is a frequency times a position, for all pairs of the two: add an axis to one of them.",
    ),
    cases=rope_angles_cases,
    oracle=rope_angles_by_loops,
    other_style=rope_angles_other_style,
    tolerance=ANGLES,
    mistakes=(
        Mistake(
            "an angle for every feature",
            rope_angles_by(lambda d, base: (base ** (-torch.arange(0, d, 2) / d)).repeat(2)),
            "You give an angle for each of the Dh features, every one twice. Two features make a pair and share an "
            "angle, so there are Dh / 2; `apply_rope` knows which features they belong to.",
        ),
        Mistake("exponent counts pairs", rope_angles_by(counting_pairs), HALF_EXPONENT),
        Mistake("frequencies upside down", rope_angles_by(upside_down), UPSIDE_DOWN),
        Mistake(
            "pairs counted from one",
            rope_angles_by(lambda d, base: base ** (-(torch.arange(0, d, 2) + 2) / d)),
            "The first pair is missing: your fastest one turns by base^(-2 / Dh) a token, because you count pairs from "
            "1. The paper does too, but subtracts 1 in the exponent. Pair 0 turns by exactly 1 radian.",
        ),
        Mistake(
            "linear frequencies",
            rope_angles_by(lambda d, base: 1 - torch.arange(0, d, 2) / d),
            "Your frequencies fall in equal steps. They must fall by equal *factors*, base^(-2i / Dh): then some pairs "
            "count tokens and others thousands of them.",
        ),
        Mistake(
            "turns instead of radians",
            rope_angles_by(lambda d, base: 2 * math.pi * base ** (-torch.arange(0, d, 2) / d)),
            "You multiply by 2 pi, and the fastest pair then makes a whole turn at every token: neighbours look the "
            "same to it. The angle is position times frequency, in radians, and no more.",
        ),
        Mistake("counted from zero", rope_angles_by(places=counted_from_zero), COUNTED_FROM_ZERO),
        Mistake("padding before zero", rope_angles_by(places=lambda positions: positions), PADDING_TURNED),
        Mistake("base ignored", rope_angles_by(lambda d, base: 1e4 ** (-torch.arange(0, d, 2) / d)), BASE_FIXED),
        Mistake(
            "no batch",
            lambda positions, head_dim, base=10000.0: torch.outer(
                positions.clamp(min=0).float(), base ** (-torch.arange(0, head_dim, 2) / head_dim)
            ),
            NO_BATCH_OF_POSITIONS,
        ),
    ),
)


def apply_rope_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, h, t, half = draw.sizes(4, 2, 6)
    yield (draw.normal(1, 4), 0.5 + torch.rand(1, 2, generator=draw.generator)), {}
    yield (draw.normal(1, 2), torch.tensor([[math.pi / 2]])), {}
    yield (draw.normal(t, 2 * half), draw.normal(t, half)), {}
    yield (draw.normal(b, h, t, 2 * half), draw.normal(t, half, scale=3.0)), {}
    yield (draw.normal(b, h, t, 2 * half, dtype=torch.float64), draw.normal(b, 1, t, half, scale=30.0)), {}
    yield (draw.normal(b, h, 4, 4), draw.normal(4, 2)), {}
    yield (draw.normal(h, t, 2 * half, dtype=torch.bfloat16), torch.zeros(t, half)), {}


def apply_rope_complex(x: Tensor, angles: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    turned = pairs * torch.exp(1j * angles.double())
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


def apply_rope_other_style(x: Tensor, angles: Tensor) -> Tensor:
    whole = torch.cat([angles, angles], dim=-1)
    partner = torch.roll(x, x.shape[-1] // 2, dims=-1)
    sign = torch.ones(x.shape[-1]).index_fill(0, torch.arange(x.shape[-1] // 2), -1.0)
    return (x * whole.cos() + partner * sign * whole.sin()).to(x.dtype)


def turned_by(
    rule: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    angles_used: Callable[[Tensor], Tensor] = lambda angles: angles,
) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A turning of the halves by another rule (first, second, cos, sin), or by other angles."""

    def wrong(x: Tensor, angles: Tensor) -> Tensor:
        used = angles_used(angles)
        parts = rule(*x.chunk(2, dim=-1), used.cos().to(x.dtype), used.sin().to(x.dtype))
        return torch.cat(parts, dim=-1)

    return wrong


def turned_right(first: Tensor, second: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return first * cos - second * sin, second * cos + first * sin


def turned_neighbours(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.stack(turned_right(x[..., 0::2], x[..., 1::2], cos, sin), dim=-1).flatten(-2)


def turned_mixed_layouts(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat(turned_right(x[..., 0::2], x[..., 1::2], cos, sin), dim=-1)


def turned_in_place(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    first.mul_(cos).sub_(second * sin)
    second.mul_(cos).add_(first * sin)
    return x


def turned_promoted(x: Tensor, angles: Tensor) -> Tensor:
    return torch.cat(turned_right(*x.float().chunk(2, dim=-1), angles.cos(), angles.sin()), dim=-1)


APPLY_ROPE = Exercise(
    id="layers.rope.apply_rope",
    lesson="04",
    title="Turn the pairs",
    task="Features i and i + Dh/2 form a pair, a point of the plane. Turn pair i of each token by its angle, "
    "counter-clockwise: (a, b) becomes (a cos - b sin, b cos + a sin). The result has the shape and dtype of `x`.",
    difficulty=2,
    minutes=12,
    points=4,
    seed=43,
    hints=(
        "Cut `x` in two halves along its last axis: the first half holds the a of all pairs, the second half the b.",
        "`angles` has the length of a half, so its cosine and sine fit both halves; axes in front broadcast.",
        "Put the two new halves side by side again. And mind the dtype: cosines of float32 angles are float32, and "
        "would make a float32 tensor of a bfloat16 one.",
    ),
    cases=apply_rope_cases,
    oracle=apply_rope_complex,
    other_style=apply_rope_other_style,
    tolerance=TURNED,
    mistakes=(
        Mistake(
            "identity",
            lambda x, angles: x.clone(),
            "Nothing is turned: the output is `x`. A model with such a RoPE runs and even learns, because the causal "
            "mask gives some order away; only a check against the angles shows it.",
        ),
        Mistake(
            "neighbours as pairs",
            turned_neighbours,
            "You pair neighbours, (2i, 2i + 1): the `interleaved` layout. It is a right RoPE, but not this one: here "
            "features i and i + Dh/2 are a pair, and weights trained for one layout are wrong in the other.",
        ),
        Mistake(
            "two layouts mixed",
            turned_mixed_layouts,
            "You take the pairs as neighbours, (2i, 2i + 1), and put them back as halves. Between queries and keys it "
            "cancels, so scores look fine; but the output is in another order than the input. Use halves throughout.",
        ),
        Mistake(
            "turned backwards",
            turned_by(lambda a, b, cos, sin: (a * cos + b * sin, b * cos - a * sin)),
            "You turn clockwise: both signs of the sine are the other way round. Scores of queries and keys turned "
            "alike would be those of mirrored distances. The minus belongs to the first half.",
        ),
        Mistake(
            "no minus",
            turned_by(lambda a, b, cos, sin: (a * cos + b * sin, b * cos + a * sin)),
            "Both halves have a plus. That is a mirror with a stretch, no rotation: lengths change, and scores depend "
            "on absolute positions. The first half is a cos *minus* b sin.",
        ),
        Mistake(
            "both minus",
            turned_by(lambda a, b, cos, sin: (a * cos - b * sin, b * cos - a * sin)),
            "Both halves have a minus. A rotation has one of each: a cos - b sin, and b cos + a sin. Check with an "
            "angle of 90 degrees: (1, 0) must become (0, 1).",
        ),
        Mistake(
            "cosine and sine swapped",
            turned_by(lambda a, b, cos, sin: (a * sin - b * cos, b * sin + a * cos)),
            "Cosine and sine have changed places: at angle 0 you turn by 90 degrees. With angle 0 nothing may move.",
        ),
        Mistake(
            "the partner forgotten",
            turned_by(lambda a, b, cos, sin: (a * cos, b * cos)),
            "You only shrink each feature by a cosine. The other feature of the pair must come in, with the sine; "
            "otherwise information is lost whenever a cosine is 0.",
        ),
        Mistake(
            "first half used after it was turned",
            turned_by(lambda a, b, cos, sin: (a * cos - b * sin, b * cos + (a * cos - b * sin) * sin)),
            "The second half is made from the *new* first half. Both need the old values: compute both before you give "
            "either a name that was taken.",
        ),
        Mistake(
            "turned in place",
            turned_in_place,
            "You write into `x`. The caller's queries change under his hands, and your second half is made from the "
            "first half that was turned already. Build new tensors and join them.",
        ),
        Mistake(
            "one angle for all pairs",
            turned_by(turned_right, lambda angles: angles[..., :1]),
            "All pairs turn by the angle of pair 0. Then one turn of the clock is all there is, and distances that are "
            "a full turn apart look the same. Each pair has its own angle.",
        ),
        Mistake(
            "angle of the token before",
            turned_by(turned_right, lambda angles: angles.roll(1, dims=-2)),
            "The angles are one token off: token t gets those of token t - 1. The rows of `angles` belong to the rows "
            "of `x` as they stand.",
        ),
        Mistake(
            "float32 whatever comes in",
            turned_promoted,
            "Your output is float32 also where `x` is not: a bfloat16 model then multiplies queries and keys of the "
            "wrong type. Bring cosine and sine, or the result, to `x.dtype`.",
        ),
    ),
)
