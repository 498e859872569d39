r"""Fresh factors of a low-rank change, judged by what can be measured on them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Factors = tuple[Tensor, Tensor]
OTHER_SEED = 1  # added to a generator's seed


def factor_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    def seeded() -> dict[str, int]:
        return {"generator": draw.size(0, 2**30)}

    yield (300, 260, 40), seeded()
    for low, high in ((260, 300), (320, 400)):
        d_in, d_out = draw.sizes(2, low, high)
        yield (d_in, d_out, draw.size(42, 60)), seeded()
    yield (draw.size(20000, 21000), draw.size(3, 9), 1), seeded()
    smallest = draw.size(100, 120)
    yield (draw.size(150, 200), smallest, smallest), seeded()  # a full rank is allowed
    yield (draw.size(260, 300), 256, 45), {}  # torch's global generator
    yield (draw.size(8, 20), 9, 0), {}  # to be refused, as the others
    yield (6, draw.size(8, 20), 7), {}
    yield (draw.size(8, 20), 5, 6), {}


def traits_of_factors(function: Callable[..., Factors], d_in: int, d_out: int, rank: int,
                      generator: int | None = None) -> Any:
    r"""What counts of two factors: shape, spread, and where the chance comes from; `generator` is the seed of one."""

    def drawn(more: int = 0) -> Any:
        source = {} if generator is None else {"generator": torch.Generator().manual_seed(generator + more)}
        return function(d_in, d_out, rank, **source)

    factors = drawn()
    if not isinstance(factors, tuple) or not all(isinstance(factor, Tensor) for factor in factors):
        return factors
    traits = tuple(_traits(factor) for factor in factors)
    if generator is None or len(factors) != 2:
        return traits
    again, other = drawn(), drawn(OTHER_SEED)
    chance = {"same generator, same numbers": all(map(torch.equal, factors, again)),
              "other generator, other numbers": not all(map(torch.equal, factors, other))}
    return (*traits, chance)


def _traits(factor: Tensor) -> dict[str, Any]:
    values = factor.detach().double()
    spread = float(values.square().mean().sqrt())
    mean = float(values.mean())
    centred = abs(mean) <= 6 * spread / math.sqrt(values.numel())
    return {"shape": tuple(factor.shape), "dtype": str(factor.dtype), "root mean square": spread,
            "mean": 0.0 if centred else mean, "largest absolute number": float(values.abs().max())}


def traits_by_formula(d_in: int, d_out: int, rank: int, generator: int | None = None) -> Any:
    r"""A uniform distribution of reach c has the root mean square c / sqrt(3)."""
    if rank < 1 or rank > d_in or rank > d_out:
        raise ValueError("rank")
    reach = d_in**-0.5
    a = {"shape": (rank, d_in), "dtype": "torch.float32", "root mean square": reach / 3**0.5, "mean": 0.0,
         "largest absolute number": reach}
    b = {"shape": (d_out, rank), "dtype": "torch.float32", "root mean square": 0.0, "mean": 0.0,
         "largest absolute number": 0.0}
    if generator is None:
        return a, b
    return a, b, {"same generator, same numbers": True, "other generator, other numbers": True}


def uniform_factor(rows: int, columns: int, generator: Any, reach: float | None = None) -> Tensor:
    reach = columns**-0.5 if reach is None else reach
    return torch.empty(rows, columns).uniform_(-reach, reach, generator=generator)


def factors_with(
    make_a: Callable[[int, int, int, Any], Tensor] = lambda d_in, d_out, rank, g: uniform_factor(rank, d_in, g),
    make_b: Callable[[int, int, int, Any], Tensor] = lambda d_in, d_out, rank, g: torch.zeros(d_out, rank),
    allowed: Callable[[int, int, int], bool] = lambda d_in, d_out, rank: 1 <= rank <= min(d_in, d_out),
    clip: bool = False,
) -> Callable[..., Factors]:
    r"""Fresh factors of which one is made in another way."""

    def function(d_in: int, d_out: int, rank: int, generator: torch.Generator | None = None) -> Factors:
        if clip:
            rank = min(max(rank, 1), d_in, d_out)
        if not allowed(d_in, d_out, rank):
            raise ValueError(f"rank={rank} of a {d_out} x {d_in} matrix")
        return make_a(d_in, d_out, rank, generator), make_b(d_in, d_out, rank, generator)

    return function


def kaiming_factors(d_in: int, d_out: int, rank: int, generator: torch.Generator | None = None) -> Factors:
    if rank not in range(1, min(d_in, d_out) + 1):
        raise ValueError(f"rank={rank} does not fit a {d_out} x {d_in} matrix")
    lora_a = torch.empty(rank, d_in)
    torch.nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5), generator=generator)
    return lora_a, lora_a.new_zeros(d_out, rank)


def reseeded_factors(d_in: int, d_out: int, rank: int, generator: Any = None) -> Factors:
    fixed = torch.Generator().manual_seed(0)
    return factors_with()(d_in, d_out, rank, fixed)


def turned_factors(d_in: int, d_out: int, rank: int, generator: Any = None) -> Factors:
    lora_a, lora_b = factors_with()(d_in, d_out, rank, generator)
    return lora_a.T.contiguous(), lora_b.T.contiguous()


def exchanged_factors(d_in: int, d_out: int, rank: int, generator: Any = None) -> Factors:
    lora_a, lora_b = factors_with()(d_in, d_out, rank, generator)
    return lora_b, lora_a


LORA_INIT = Exercise(
    id="tuning.low_rank.lora_init",
    lesson="13",
    title="Two thin matrices",
    task="Make the two factors of a change of a (d_out, d_in) matrix: `lora_a` (rank, d_in), each number uniform "
    "between -1/sqrt(d_in) and 1/sqrt(d_in), and `lora_b` (d_out, rank), all zeros. Return them in this order, in "
    "float32. The random numbers come from `generator`. A rank below 1, or above the smaller side of the matrix, must "
    "be refused with a ValueError.\n\n"
    "Before you write: what is B A at the start? And what would a gradient step do, were A zero as well?",
    difficulty=1,
    minutes=8,
    points=2,
    seed=131,
    hints=(
        "The change is B A, (d_out, rank) times (rank, d_in). One zero factor makes it zero; which numbers does the "
        "gradient of the other one have in it?",
        "`torch.rand` gives numbers from 0 to 1. How do you move them to the range from -1 to 1, and then to the one "
        "that is asked for? `uniform_` of a tensor takes both ends at once.",
        "`torch.rand` and `uniform_` both take `generator=`. A generator of None means torch's own.",
    ),
    cases=factor_cases,
    oracle=traits_by_formula,
    other_style=kaiming_factors,
    tolerance=Tolerance(0.04, 1e-9, "the spread of a sample of 10,000 numbers or more, good to about 0.5 %"),
    probe=traits_of_factors,
    mistakes=(
        Mistake(
            "both zero",
            factors_with(make_a=lambda d_in, d_out, rank, g: torch.zeros(rank, d_in)),
            "Both factors are zero. The gradient of A has B in it, and that of B has A in it: both are zero, and stay "
            "so however long you train. Nothing fails, and nothing is ever learned. One factor must be random.",
        ),
        Mistake(
            "both random",
            factors_with(make_b=lambda d_in, d_out, rank, g: uniform_factor(d_out, rank, g)),
            "Both factors are random, so B A is a random matrix, and training begins at a model that has been damaged. "
            "With B zero it begins exactly at the base.",
        ),
        Mistake(
            "the zeros in A",
            factors_with(
                make_a=lambda d_in, d_out, rank, g: torch.zeros(rank, d_in),
                make_b=lambda d_in, d_out, rank, g: uniform_factor(d_out, rank, g),
            ),
            "You made A zero and B random. That too begins at the base, and can learn, but then the change stays, in "
            "the first steps, in a random part of the *outputs*. In LoRA B is the one that is zero.",
        ),
        Mistake(
            "exchanged",
            exchanged_factors,
            "The two factors are right, but in the wrong order: `lora_a` comes first.",
        ),
        Mistake(
            "transposed",
            turned_factors,
            "Both factors lie on their side. `lora_a` is (rank, d_in) and `lora_b` (d_out, rank), so that B A has the "
            "shape of the layer's weight, (d_out, d_in).",
        ),
        Mistake(
            "not scaled",
            factors_with(make_a=lambda d_in, d_out, rank, g: torch.randn(rank, d_in, generator=g)),
            "Your A has numbers of about 1, whatever d_in is. A x is then a sum of d_in terms and grows with "
            "sqrt(d_in), so that the first steps are far too long in a wide model. Divide.",
        ),
        Mistake(
            "only positive",
            factors_with(make_a=lambda d_in, d_out, rank, g: torch.rand(rank, d_in, generator=g) / d_in**0.5),
            "Your A has positive numbers only: `torch.rand` goes from 0 to 1. All rows of A then look much alike, and "
            "so do the directions that B can use.",
        ),
        Mistake(
            "scaled by the rank",
            factors_with(make_a=lambda d_in, d_out, rank, g: uniform_factor(rank, d_in, g, rank**-0.5)),
            "You divide by sqrt(rank). What is summed in A x are d_in numbers; it is their count that A must make up "
            "for.",
        ),
        Mistake(
            "divided by all of d_in",
            factors_with(make_a=lambda d_in, d_out, rank, g: uniform_factor(rank, d_in, g, 1 / d_in)),
            "You divide by d_in, not by its root. A sum of d_in random terms grows only with sqrt(d_in), so your A x "
            "begins much too small.",
        ),
        Mistake(
            "normal",
            factors_with(make_a=lambda d_in, d_out, rank, g: torch.randn(rank, d_in, generator=g) / d_in**0.5),
            "Your A is normally distributed. The paper says so, too, but its authors' code and this course draw "
            "uniform numbers between -1/sqrt(d_in) and 1/sqrt(d_in), of which none is far out.",
        ),
        Mistake(
            "all the same",
            factors_with(make_a=lambda d_in, d_out, rank, g: torch.full((rank, d_in), d_in**-0.5)),
            "All rows of your A are the same, so all columns of B get the same gradient, for ever: whatever the rank "
            "says, the change has rank 1.",
        ),
        Mistake(
            "generator not used",
            factors_with(make_a=lambda d_in, d_out, rank, g: uniform_factor(rank, d_in, None)),
            "You were handed a generator and drew from torch's global one: the same generator in the same state gave "
            "other numbers. Hand it on with `generator=generator`.",
        ),
        Mistake(
            "always the same numbers",
            reseeded_factors,
            "Whatever the generator, the numbers are the same: a seed is set inside. Every layer of a model would "
            "begin with the same A.",
        ),
        Mistake(
            "any rank",
            factors_with(allowed=lambda d_in, d_out, rank: rank >= 1),
            "You accept a rank above the smaller side of the matrix. B A cannot have it: what comes beyond that is "
            "memory without use. Raise a ValueError.",
        ),
        Mistake(
            "rank 0",
            factors_with(allowed=lambda d_in, d_out, rank: rank <= min(d_in, d_out)),
            "You accept a rank of 0: two empty factors, that can learn nothing, and later alpha / 0. Raise a "
            "ValueError.",
        ),
        Mistake(
            "rank moved into its range",
            factors_with(clip=True),
            "You take another rank than the one that was asked for, and nobody hears of it. Raise a ValueError that "
            "says what is allowed.",
        ),
    ),
)
