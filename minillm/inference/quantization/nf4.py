r"""NF4: 16 values that lie where normally distributed weights lie."""

from statistics import NormalDist

import torch
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

from minillm.inference.quantization import rows


def normal_levels(n_bits: int = 4) -> Float32[Tensor, "n"]:
    r"""The code book of NormalFloat: quantiles of the normal distribution, scaled to [-1, 1], with an exact 0.

    If each code is to be used equally often, the codes must lie at quantiles. Half of the 2^n codes go from 0 up, and
    one less goes down, each spaced evenly in probability, as far as a tail that is cut off; 0 is shared.
    The tail's probability is the mean of 1/32 and 1/30 for 4 bits: half a step in 16 codes, and in 15.

    Args:
        n_bits: 2 to 8; 4 is NF4.
    Returns: (2**n_bits,), float32, rising from -1 to 1.
    Raises:
        ValueError: if n_bits is out of range.
    Source: Dettmers et al. 2023, QLoRA, section 3 and appendix E, which prints the 16 values; the tail as in the
        authors' code, here for other widths too.
    Lesson: 11.
    """
    if not 2 <= n_bits <= 8:
        raise ValueError(f"n_bits={n_bits}: choose 2 to 8")
    half, n_codes = 2 ** (n_bits - 1), 2**n_bits
    tail = (1 / (2 * n_codes) + 1 / (2 * n_codes - 2)) / 2
    quantile = NormalDist().inv_cdf
    up, down = ([quantile(0.5 + (0.5 - tail) * i / n) for i in range(1, n + 1)] for n in (half, half - 1))
    levels = [-value for value in reversed(down)] + [0.0] + up
    return torch.tensor(levels, dtype=torch.float64).div(up[-1]).float()


def nearest_level(x: Float[Tensor, "*s"], levels: Float[Tensor, "n"]) -> UInt8[Tensor, "*s"]:
    r"""The number of the nearest value of a code book.

    Args:
        x: any shape, float.
        levels: (n,), rising, at most 256.
    Returns: the shape of x, uint8.
    Lesson: 11.
    """
    borders = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(x.contiguous(), borders.to(x.device, x.dtype)).to(torch.uint8)


def nf4_quantize(
    weight: Float[Tensor, "*s"], group_size: int = 64
) -> tuple[UInt8[Tensor, "*s"], Float32[Tensor, "blocks"]]:
    r"""Each number as one of the 16 values of NF4 times the largest absolute number of its block.

    Args:
        weight: any shape, float; blocks run through it in the order of its memory.
        group_size: numbers that share a scale; must divide the count of all.
    Returns: codes in the shape of weight, uint8, 0 .. 15 (`int4.pack_nibbles` packs two in a byte); scales, (blocks,),
        float32, 0 for a block of zeros.
    Raises:
        ValueError: if group_size does not divide the count.
    Source: Dettmers et al. 2023, QLoRA, section 3, 4-bit NormalFloat, blocks of 64.
    Lesson: 11, 13.
    """
    if group_size < 1 or weight.numel() % group_size:
        raise ValueError(f"group_size={group_size} does not divide the {weight.numel()} numbers of the weight")
    blocks = weight.float().reshape(-1, group_size)
    scales = blocks.abs().amax(dim=1)
    levels = normal_levels().to(weight.device)
    codes = nearest_level(blocks / scales.where(scales > 0, torch.ones_like(scales))[:, None], levels)
    return codes.reshape(weight.shape), scales


def restore_nf4(
    codes: UInt8[Tensor, "*s"], scales: Float[Tensor, "blocks"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*s"]:
    r"""The weights that `nf4_quantize` stored, but for its rounding.

    Args:
        codes: any shape, uint8, 0 .. 15.
        scales: (blocks,).
        dtype: of the result.
    Returns: the shape of codes, of that dtype.
    Source: Dettmers et al. 2023, QLoRA, section 3.
    Lesson: 11, 13.
    """
    values = normal_levels().to(codes.device)[codes.long()].reshape(len(scales), -1)
    return (values * scales.float()[:, None]).reshape(codes.shape).to(dtype)


def double_quantize(
    scales: Float[Tensor, "blocks"], group_size: int = 256
) -> tuple[Int8[Tensor, "blocks"], Float32[Tensor, "outer"], Float32[Tensor, ""]]:
    r"""The scales themselves in 8 bits: of 0.5 bits a weight for them, 0.127 are left.

    Scales are all positive, so their mean is taken off first; what remains lies around 0 and is rounded by absmax.

    Args:
        scales: (blocks,), float.
        group_size: scales that share a scale; the last of them may be fewer.
    Returns: (blocks,) int8; their scales, (blocks / group_size, rounded up), float32; and the mean, float32.
    Raises:
        ValueError: if group_size is less than 1.
    Source: Dettmers et al. 2023, QLoRA, section 3, Double Quantization, blocks of 256; there with 8-bit floats, here
        with whole numbers.
    Lesson: 11, 13.
    """
    if group_size < 1:
        raise ValueError(f"group_size={group_size}: use at least 1")
    mean = scales.float().mean()
    missing = -len(scales) % group_size
    around = torch.nn.functional.pad(scales.float() - mean, (0, missing)).reshape(-1, group_size)
    q, outer = rows.quantize_rows(around)
    return q.flatten()[: len(scales)], outer[:, 0], mean


def restore_scales(
    q: Int8[Tensor, "blocks"], outer: Float[Tensor, "outer"], mean: Float[Tensor, ""], group_size: int = 256
) -> Float32[Tensor, "blocks"]:
    r"""The scales that `double_quantize` stored, but for its rounding.

    Args:
        q: (blocks,), int8.
        outer: a scale for each group_size of them.
        mean: of all.
        group_size: as it was.
    Returns: (blocks,), float32.
    Source: Dettmers et al. 2023, QLoRA, section 3.
    Lesson: 11, 13.
    """
    return q.float() * outer.float().repeat_interleave(group_size)[: len(q)] + mean.float()


def nf4_bits(group_size: int = 64, double: bool = False) -> float:
    r"""Bits a weight of NF4, scales included.

    Args:
        group_size: weights that share a scale.
        double: whether the scales are themselves in 8 bits, 256 of them to one float32.
    Returns: 4.5 for blocks of 64, or 4.127 when doubly quantized.
    Source: Dettmers et al. 2023, QLoRA, section 3.
    Lesson: 11, 13.
    """
    return 4 + ((8 + 32 / 256) if double else 32) / group_size
