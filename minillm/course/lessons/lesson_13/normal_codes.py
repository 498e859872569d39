r"""Codes that lie where weights lie."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Coded = tuple[Tensor, Tensor]
# Dettmers et al. 2023, QLoRA, appendix E, the code book as it is printed there.
PRINTED = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
           -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
           0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
JITTER = 0.3  # of the distance to the next code; the border lies at 0.5


def normal_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[0.5, -2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]), 4), {}
    yield (numbers_near_levels(draw, 4, 64).reshape(2, 128),), {}
    group_size = draw.size(5, 7)
    yield (numbers_near_levels(draw, 6, group_size).reshape(3, 2 * group_size), group_size), {}
    yield (numbers_near_levels(draw, 4, group_size).reshape(group_size, 4), group_size), {}  # a block over two rows
    yield (numbers_near_levels(draw, 6, 4).reshape(2, 3, 4), 12), {}
    with_zeros = numbers_near_levels(draw, 6, 8)
    with_zeros[draw.size(1, 4)] = 0.0
    yield (with_zeros.reshape(3, 16), 8), {}
    below = numbers_near_levels(draw, 3, group_size, top=-1.0)
    yield (below, group_size), {}  # the largest is negative
    yield (numbers_near_levels(draw, 4, group_size).bfloat16(), group_size), {}
    yield (numbers_near_levels(draw, 3, group_size).flatten(), 3 * group_size), {}
    yield (draw.normal(3, 10), 4), {}  # to be refused, as the next
    yield (draw.normal(3, 10), 0), {}


def numbers_near_levels(draw: Draw, n_blocks: int, group_size: int, top: float | None = None) -> Tensor:
    r"""Blocks whose codes are known: near a code, and clear of the borders between two; one number is the largest."""
    levels = torch.tensor(PRINTED, dtype=torch.float64)
    codes = draw.integers(1, 14, n_blocks, group_size)
    gap = torch.minimum(levels[codes + 1] - levels[codes], levels[codes] - levels[codes - 1])
    values = levels[codes] + JITTER * gap * (draw.integers(-100, 100, n_blocks, group_size) / 100)
    ends = torch.tensor([1.0, -1.0]).repeat(n_blocks)[:n_blocks] if top is None else torch.full((n_blocks,), top)
    values[torch.arange(n_blocks), draw.integers(0, group_size - 1, n_blocks)] = ends.double()
    return (values * draw.integers(20, 200, n_blocks, 1) / 100).float()


def nearest_by_search(weight: Tensor, group_size: int = 64) -> Coded:
    r"""Each number against all printed codes, in Python."""
    numbers = weight.double().flatten().tolist()
    if group_size < 1 or len(numbers) % group_size:
        raise ValueError(f"group_size={group_size}")
    codes, scales = [], []
    for start in range(0, len(numbers), group_size):
        block = numbers[start : start + group_size]
        scale = max(abs(number) for number in block)
        scales.append(scale)
        for number in block:
            distances = [abs(number / (scale or 1.0) - level) for level in PRINTED]
            codes.append(distances.index(min(distances)))
    return torch.tensor(codes, dtype=torch.uint8).reshape(weight.shape), torch.tensor(scales, dtype=torch.float32)


def nearest(blocks: Tensor, levels: Tensor) -> Tensor:
    return (blocks[..., None] - levels).abs().argmin(-1)


def coded_by_normal(
    levels: Callable[[], Tensor] = lambda: torch.tensor(PRINTED),
    blocks: Callable[[Tensor, int], Tensor] = lambda w, g: w.reshape(-1, g),
    reach: Callable[[Tensor], Tensor] = lambda blocks: blocks.abs().amax(-1),
    divisor: Callable[[Tensor], Tensor] = lambda scales: torch.where(scales > 0, scales, 1.0),
    code: Callable[[Tensor, Tensor], Tensor] = nearest,
    back: Callable[[Tensor, tuple[int, ...]], Tensor] = lambda codes, shape: codes.to(torch.uint8).reshape(shape),
    kept: Callable[[Tensor, Tensor], Tensor] = lambda scales, weight: scales,
    accept: bool = False,
) -> Callable[..., Coded]:
    r"""Codes in blocks of which one thing is done in another way."""

    def function(weight: Tensor, group_size: int = 64) -> Coded:
        if group_size < 1 or (weight.numel() % group_size and not accept):
            raise ValueError(f"group_size={group_size} does not divide {weight.numel()}")
        rest = -weight.numel() % group_size
        whole = torch.nn.functional.pad(weight.float().flatten(), (0, rest)).reshape(-1 if rest else weight.shape)
        parts = blocks(whole, group_size)
        scales = reach(parts)
        codes = code(parts / divisor(scales)[..., None], levels())
        return back(codes, weight.shape) if not rest else codes.flatten()[: weight.numel()].reshape(
            weight.shape).to(torch.uint8), kept(scales, weight)

    return function


def quantiles_without_zero() -> Tensor:
    tail = (1 / 32 + 1 / 30) / 2
    chances = torch.linspace(tail, 1 - tail, 16, dtype=torch.float64)
    levels = torch.special.ndtri(chances)
    return (levels / levels[-1]).float()


def combed(weight: Tensor, group_size: int = 64) -> Coded:
    if group_size < 1 or weight.numel() % group_size:
        raise ValueError(f"group_size={group_size} does not divide {weight.numel()}")
    by_columns = weight.float().reshape(group_size, -1)
    codes, scales = coded_by_normal()(by_columns.T.contiguous(), group_size)
    return codes.T.reshape(weight.shape).contiguous(), scales


def one_scale(weight: Tensor, group_size: int = 64) -> Coded:
    codes, scales = coded_by_normal(reach=lambda blocks: blocks.abs().amax().expand(len(blocks)))(weight, group_size)
    return codes, scales.clone()


NF4_QUANTIZE = Exercise(
    id="inference.quantization.nf4.nf4_quantize",
    lesson="13",
    title="Sixteen codes where the weights are",
    task="`nf4.normal_levels()` (after `from minillm.inference.quantization import nf4`) gives the 16 values of NF4, "
    "rising from -1 to 1, with an exact 0 among them. Cut `weight`, of any shape, into blocks of `group_size` numbers "
    "that follow each other in memory, over the ends of rows if it comes so. A block's scale is its largest absolute "
    "number; each number becomes the *number* (0 to 15) of the value nearest to it, after division by the scale.\n\n"
    "Return the codes in the shape of `weight`, in uint8, and the scales, one a block, in float32; compute in float32. "
    "A block of zeros has the scale 0 and in every place the code of the value 0. A group size that is less than 1, or "
    "does not divide the count of all numbers, must be refused with a ValueError.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=134,
    hints=(
        "`weight.reshape(-1, group_size)` makes blocks of what follows each other; at the end the codes take the "
        "weight's shape again.",
        "The nearest of 16: compare with all of them on a new last axis, and `argmin` of the distances. Or find the "
        "borders, halfway between two neighbours, and count with `torch.bucketize`.",
        "What is 0 / 0, and which code is nearest to that? Divide a block of zeros by something else.",
    ),
    cases=normal_cases,
    oracle=nearest_by_search,
    other_style=coded_by_normal(),
    tolerance=Tolerance(1e-6, 1e-9, "a scale is copied"),
    mistakes=(
        Mistake(
            "0 / 0 and argmin",
            coded_by_normal(divisor=lambda scales: scales),
            "A block of zeros is divided by its scale, 0: that is NaN, and `argmin` answers with the first code. "
            "One such block, times a scale that is not quite 0 after double quantization, is -1 throughout.",
        ),
        Mistake(
            "0 / 0 and borders",
            coded_by_normal(divisor=lambda scales: scales, code=lambda x, levels: torch.bucketize(
                x, (levels[1:] + levels[:-1]) / 2)),
            "A block of zeros is divided by its scale, 0: that is NaN, which lies beyond every border and gets the "
            "last code. Divide such a block by 1.",
        ),
        Mistake(
            "even steps",
            coded_by_normal(levels=lambda: torch.linspace(-1, 1, 16)),
            "Your 16 values lie evenly, as in int4. Most weights lie near 0, where NF4's values are closer together: "
            "that is all the difference between the two.",
        ),
        Mistake(
            "no exact zero",
            coded_by_normal(levels=quantiles_without_zero),
            "Your values are quantiles, evenly from end to end; then none of the 16 is exactly 0, and every weight "
            "that is 0 comes back as something else. Take the values of `nf4.normal_levels()`.",
        ),
        Mistake(
            "one scale for all",
            one_scale,
            "All blocks have the same scale. One large weight anywhere then takes the precision of all the others; "
            "each block gets its own.",
        ),
        Mistake(
            "combs",
            combed,
            "Your blocks are combs: numbers that lie far apart. A block is `group_size` numbers that follow each "
            "other; the two sizes in your reshape are exchanged.",
        ),
        Mistake(
            "largest, not largest absolute",
            coded_by_normal(reach=lambda blocks: blocks.amax(-1)),
            "You take the largest number for the scale. Where a negative one is larger, it has no code and is cut "
            "off, and a block of negative numbers has a negative scale.",
        ),
        Mistake(
            "standard deviation",
            coded_by_normal(reach=lambda blocks: blocks.std(-1, correction=0)),
            "You divide by the standard deviation. It makes the weights normal, but the code book ends at -1 and 1: "
            "whatever lies beyond one standard deviation would be cut off. The scale is the largest absolute number.",
        ),
        Mistake(
            "scale upside down",
            coded_by_normal(kept=lambda scales, weight: 1 / scales),
            "You return 1 / scale. What is stored is what brings the numbers back: value = level * scale.",
        ),
        Mistake(
            "next level below",
            coded_by_normal(code=lambda x, levels: (torch.bucketize(x, levels, right=True) - 1).clamp(0, 15)),
            "You take the level below, not the nearest: every weight becomes smaller. The borders lie halfway between "
            "two levels.",
        ),
        Mistake(
            "next level above",
            coded_by_normal(code=lambda x, levels: torch.bucketize(x, levels).clamp(0, 15)),
            "You take the level above, not the nearest: `bucketize` with the levels themselves as borders. They lie "
            "halfway between two levels.",
        ),
        Mistake(
            "values, not codes",
            coded_by_normal(code=lambda x, levels: levels[nearest(x, levels)],
                            back=lambda codes, shape: codes.reshape(shape)),
            "You return the values themselves, in float32: nothing has become smaller. What is stored is a number from "
            "0 to 15, its place in the code book.",
        ),
        Mistake(
            "codes not in bytes",
            coded_by_normal(back=lambda codes, shape: codes.reshape(shape)),
            "The codes are right, but `argmin` and `bucketize` give int64, eight bytes for four bits. Cast them to "
            "uint8.",
        ),
        Mistake(
            "codes in blocks",
            coded_by_normal(back=lambda codes, shape: codes.to(torch.uint8)),
            "The codes still lie in blocks. Give them the shape of the weight again.",
        ),
        Mistake(
            "scales with an axis too many",
            coded_by_normal(kept=lambda scales, weight: scales[:, None]),
            "The scales are (blocks, 1): `keepdim` helps you to divide, but one number a block is what is asked for.",
        ),
        Mistake(
            "scales in the weight's dtype",
            coded_by_normal(kept=lambda scales, weight: scales.to(weight.dtype)),
            "The scales have the dtype of the weight. They are float32, as long as they are not quantized themselves.",
        ),
        Mistake(
            "filled up",
            coded_by_normal(accept=True),
            "Where the group size does not divide the count, you fill the last block with zeros: the number of scales "
            "then fits no longer. Raise a ValueError.",
        ),
    ),
)
