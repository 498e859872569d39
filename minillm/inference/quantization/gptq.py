r"""GPTQ: round one column after another, and let those still to come make up for the error."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from minillm.inference.quantization import affine


def gptq_quantize(
    weight: Float[Tensor, "R C"], x: Float[Tensor, "T C"], n_bits: int = 4, group_size: int = 32, damping: float = 0.01
) -> tuple[UInt8[Tensor, "R C"], Float[Tensor, "R G"], Float[Tensor, "R G"]]:
    r"""As `affine.quantize_groups`, but with the codes chosen for small errors of x @ weight.T, not of the weight.

    What rounding column j does to the output can in part be undone by the columns after it, as far as their features
    go together with feature j in x. By how much follows from H = x^T x: the error, divided by U_jj, is subtracted from
    the columns k > j in proportion to U_jk, where U^T U = H^-1 (U is upper triangular). Features that have nothing to
    do with each other make H diagonal, and what is left is rounding to nearest.

    Args:
        weight: (R, C), float.
        x: activations of a sample text, what this layer reads, (T, C), float.
        n_bits: 2 to 8.
        group_size: numbers that share a scale; must divide C. A group's scale is fixed when its first column comes.
        damping: share of H's mean diagonal that is added to its diagonal, above 0, so that H can be inverted.
    Returns: codes (R, C), uint8; scales and lows (R, C / group_size), float32. `int4.restore_int4` restores them.
    Raises:
        ValueError: if n_bits or group_size is out of range, damping is not above 0, or x is 0 throughout.
    Source: Frantar et al. 2022, GPTQ, section 4, algorithm 1, whose damping of 1 % is the default here. Without its
        blocks of 128 columns, which save memory traffic and change nothing else.
    Lesson: 11.
    """
    if damping <= 0:
        raise ValueError(f"damping={damping}: use a number above 0, such as 0.01")
    codes, scales, lows = affine.quantize_groups(weight.double(), n_bits, group_size)
    hessian = x.double().T @ x.double()
    mean = hessian.diagonal().mean()
    if not mean > 0:
        raise ValueError("x is 0 throughout: give the activations of a real text")
    hessian += damping * mean * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    left = weight.double().clone()
    for j in range(weight.shape[1]):
        group = j // group_size
        if j % group_size == 0:
            scales[:, group], lows[:, group] = affine.grid_of(left[:, j : j + group_size], n_bits)
        scale, low = scales[:, group], lows[:, group]
        codes[:, j] = affine.nearest_codes(left[:, j], scale, low, n_bits)
        error = (left[:, j] - (codes[:, j] * scale + low)) / upper[j, j]
        left[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return codes, scales.float(), lows.float()
