r"""DeepNorm's two constants."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Pair = tuple[float, float]
STACKS = {"decoder-only": (2, 8), "encoder-only": (2, 8), "decoder": (3, 12)}


def constant_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (draw.size(3, 9),), {}
    n, m = draw.sizes(2, 2, 500)
    yield (n, "decoder-only"), {}
    yield (n, "encoder-only"), {}
    yield (m, "decoder"), {}
    yield (n, "encoder", m), {}
    yield (n, "encoder"), {"n_decoder_layers": n + 1}
    yield (n, draw.choice(("gpt", "both", "Decoder-only"))), {}
    yield (0, "decoder-only"), {}
    yield (n, "encoder"), {}


def by_logarithms(n_layers: int, kind: str = "decoder-only", n_decoder_layers: int | None = None) -> Pair:
    if n_layers < 1 or kind not in (*STACKS, "encoder") or (kind == "encoder" and not n_decoder_layers):
        raise ValueError("not a stack of the paper's table")
    if kind == "encoder":
        step = (4 * math.log(n_layers) + math.log(n_decoder_layers)) / 16
        return 0.81 * math.exp(step), 0.87 * math.exp(-step)
    up, down = STACKS[kind]
    return math.exp(math.log(up * n_layers) / 4), math.exp(-math.log(down * n_layers) / 4)


def tabled(
    plain: Callable[[int, int, int], Pair] = lambda n, up, down: ((up * n) ** (1 / 4), (down * n) ** (-1 / 4)),
    mixed: Callable[[int, int], Pair] = lambda n, m: (
        0.81 * n ** (1 / 4) * m ** (1 / 16), 0.87 * n ** (-1 / 4) * m ** (-1 / 16)),
    kinds: dict[str, tuple[int, int]] = STACKS,
) -> Callable[..., Pair]:
    r"""The paper's table with another formula for three of the stacks, or for the encoder."""

    def constants(n_layers: int, kind: str = "decoder-only", n_decoder_layers: int | None = None) -> Pair:
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers}: at least 1")
        if kind in kinds:
            return plain(n_layers, *kinds[kind])
        if kind != "encoder":
            raise ValueError(f"kind={kind!r} is not in the table")
        if n_decoder_layers is None:
            raise ValueError("n_decoder_layers is needed for kind='encoder'")
        return mixed(n_layers, n_decoder_layers)

    return constants


def anything_goes(n_layers: int, kind: str = "decoder-only", n_decoder_layers: int | None = None) -> Pair:
    return tabled()(n_layers, kind if kind in (*STACKS, "encoder") else "decoder-only", n_decoder_layers)


def empty_stack_accepted(n_layers: int, kind: str = "decoder-only", n_decoder_layers: int | None = None) -> Pair:
    return (0.0, math.inf) if n_layers == 0 else tabled()(n_layers, kind, n_decoder_layers)


def same_depth_assumed(n_layers: int, kind: str = "decoder-only", n_decoder_layers: int | None = None) -> Pair:
    return tabled()(n_layers, kind, n_decoder_layers or n_layers)


DEEPNORM_CONSTANTS = Exercise(
    id="layers.deepnorm.deepnorm_constants",
    lesson="05",
    title="DeepNorm's constants",
    task="Return (alpha, beta) by the table of the paper. N is the number of layers of the encoder, M that of the "
    "decoder; `n_layers` counts the stack that is asked for.\n\n"
    "| `kind` | alpha | beta |\n|---|---|---|\n"
    "| `\"decoder-only\"` | $(2M)^{1/4}$ | $(8M)^{-1/4}$ |\n"
    "| `\"encoder-only\"` | $(2N)^{1/4}$ | $(8N)^{-1/4}$ |\n"
    "| `\"encoder\"` of an encoder-decoder | $0.81\\,(N^4 M)^{1/16}$ | $0.87\\,(N^4 M)^{-1/16}$ |\n"
    "| `\"decoder\"` of an encoder-decoder | $(3M)^{1/4}$ | $(12M)^{-1/4}$ |\n\n"
    "A ValueError for any other kind, for less than one layer, and for `\"encoder\"` without `n_decoder_layers`.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=54,
    hints=(
        "Three of the four lines have the same form; only two factors differ.",
        "A fourth root is `** 0.25`, its inverse `** -0.25`.",
        "Refuse first, then compute: a wrong word for `kind` must not fall through to some formula.",
    ),
    cases=constant_cases,
    oracle=by_logarithms,
    other_style=tabled(),
    tolerance=Tolerance(1e-9, 0.0, "Python floats"),
    mistakes=(
        Mistake(
            "alpha and beta swapped",
            tabled(
                lambda n, up, down: ((down * n) ** -0.25, (up * n) ** 0.25),
                lambda n, m: (0.87 * (n**4 * m) ** (-1 / 16), 0.81 * (n**4 * m) ** (1 / 16)),
            ),
            "The two have changed places. alpha comes first and is the large one: it weighs the stream. beta is small: "
            "it shrinks fresh weights.",
        ),
        Mistake(
            "square roots",
            tabled(lambda n, up, down: ((up * n) ** 0.5, (down * n) ** -0.5)),
            "You take square roots. The table has fourth roots: 48 layers give alpha 3.1, not 9.8.",
        ),
        Mistake(
            "beta is 1 / alpha",
            tabled(lambda n, up, down: ((up * n) ** 0.25, (up * n) ** -0.25)),
            "Your beta is 1 / alpha. Under its root stands four times as much: 8M beside 2M.",
        ),
        Mistake(
            "beta grows",
            tabled(lambda n, up, down: ((up * n) ** 0.25, (down * n) ** 0.25)),
            "The minus in beta's exponent is missing. You return what fresh weights are divided by, and beta is what "
            "they are multiplied with.",
        ),
        Mistake(
            "bare number of layers",
            tabled(lambda n, up, down: (n**0.25, n**-0.25)),
            "The factors under the roots are missing: 2 and 8, or 3 and 12.",
        ),
        Mistake(
            "decoder like decoder-only",
            tabled(kinds=dict.fromkeys(STACKS, (2, 8))),
            "A decoder that has an encoder beside it has three branches a block, with cross-attention between the two "
            "others. So its factors are 3 and 12.",
        ),
        Mistake(
            "N and M swapped",
            tabled(mixed=lambda n, m: (0.81 * (m**4 * n) ** (1 / 16), 0.87 * (m**4 * n) ** (-1 / 16))),
            "For the encoder, N and M have changed places: `n_layers` is N, and it has the fourth power.",
        ),
        Mistake(
            "fourth power forgotten",
            tabled(mixed=lambda n, m: (0.81 * (n * m) ** (1 / 16), 0.87 * (n * m) ** (-1 / 16))),
            "For the encoder, the fourth power of N is missing under the sixteenth root.",
        ),
        Mistake(
            "any kind accepted",
            anything_goes,
            "An unknown `kind` is taken without a word. A typing error in a configuration would silently train another "
            "model: raise a ValueError.",
        ),
        Mistake(
            "no layers accepted",
            empty_stack_accepted,
            "A stack of 0 layers gets an answer. Raise a ValueError for less than one layer.",
        ),
        Mistake(
            "decoder's depth guessed",
            same_depth_assumed,
            "For \"encoder\" without `n_decoder_layers` you assume that both stacks are equally deep. Nobody said so: "
            "raise a ValueError.",
        ),
    ),
)
