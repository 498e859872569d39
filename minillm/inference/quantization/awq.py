r"""AWQ: make the weights that meet large activations larger before they are rounded."""

from jaxtyping import Float, UInt8
from torch import Tensor

from minillm.inference.quantization import affine, int4

STEPS = 20  # exponents 0, 1/20, ..., 1 are tried


def awq_factors(x: Float[Tensor, "T C"], alpha: float) -> Float[Tensor, "C"]:
    r"""By how much each feature's weights are multiplied: its mean size in x, to the power of alpha.

    Args:
        x: activations of a sample text, (T, C), float.
        alpha: 0 (all alike) to 1.
    Returns: (C,), float32, above 0, scaled so that the smallest and the largest multiply to 1.
    Source: Lin et al. 2023, AWQ, section 3.2, equation 5: s = s_X^alpha. The scaling to a product of 1 is the choice of
        the authors' code.
    Lesson: 11.
    """
    sizes = x.float().abs().mean(dim=0).clamp(min=1e-4)
    factors = sizes**alpha
    return factors / (factors.amin() * factors.amax()).sqrt()


def awq_quantize(
    weight: Float[Tensor, "R C"], x: Float[Tensor, "T C"], n_bits: int = 4, group_size: int = 32
) -> tuple[UInt8[Tensor, "R C"], Float[Tensor, "R G"], Float[Tensor, "R G"], Float[Tensor, "C"]]:
    r"""As `affine.quantize_groups`, of weight * factors, with the factors for which the output is best.

    A weight's rounding error is a part of its group's step, whatever its own size; multiplied by s it is s times
    as large, and its error, once the activation is divided by s, s times as small: as long as the group's step
    hardly grows. So the features that are large in x are scaled up. How much is tried out.

    Args:
        weight: (R, C), float.
        x: activations of a sample text, (T, C), float.
        n_bits: 2 to 8.
        group_size: numbers that share a scale; must divide C.
    Returns: codes (R, C), uint8; scales and lows (R, C / group_size), float32; and the factors, (C,), by which x is to
        be divided (or the norm before it, see `smoothquant.fold_into_norm`): the output is
        (x / factors) @ restore_int4(codes, scales, lows).T. An exponent of 0 is among those tried, so on x itself
        it is never worse than rounding to nearest.
    Raises:
        ValueError: if n_bits or group_size is out of range.
    Source: Lin et al. 2023, AWQ, section 3.2, equations 4 and 5, with their search over 20 steps of alpha; without
        their search for a range to clip to.
    Lesson: 11.
    """
    best, least = None, float("inf")
    exact = x.float() @ weight.float().T
    for step in range(STEPS + 1):
        factors = awq_factors(x, step / STEPS)
        codes, scales, lows = affine.quantize_groups(weight.float() * factors, n_bits, group_size)
        out = (x.float() / factors) @ int4.restore_int4(codes, scales, lows).T
        error = float((out - exact).double().square().sum())
        if best is None or error < least:
            best, least = (codes, scales, lows, factors), error
    return best
