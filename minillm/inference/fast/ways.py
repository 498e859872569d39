r"""Ways to multiply the features of one token, or of a few, by a matrix.

A decoding step reads every weight once and does one multiplication with it, so its time is that of reading: each way
below reads the matrix as it is stored and casts in registers, but which one keeps up with the memory depends on the
processor and on what torch was built with. Most are private functions of torch, which may go: none is required, and
`products` tries which of them are there.

Here activations are in float32, whatever the weights are held in: with one row, casts of the small operations around
the matrices cost more than they save.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.inference.fast.matrices import first_rows
from minillm.inference.quantization import packed
from minillm.inference.quantization.int4 import unpack_nibbles
from minillm.inference.quantization.linears import Int4Linear, Int8Linear

Product = Callable[[Tensor], Tensor]  # (M, C) float32 -> (M, R) float32
Way = Callable[[Any, int], Product | None]  # (layer, M) -> the product without bias; None = not for this layer

LAYERS = (nn.Linear, Int8Linear, Int4Linear)
LEVELS = 63  # on each side of zero: sums of two products of 7 and 8 bits fit into 16, as some processors add them


def own_forward(layer: Any, n_rows: int) -> Product:
    r"""The layer as it is, with activations in the type that it wants.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; a bias is left out.
        n_rows: M, rows of activations at once.
    Returns: (M, C) float32 -> (M, R) float32.
    Lesson: 11.
    """
    dtype = layer.weight.dtype if type(layer) is nn.Linear else layer.dtype
    if type(layer) is nn.Linear:
        return lambda x: F.linear(x.to(dtype), layer.weight).float()
    bare = first_rows(layer, layer.scales.shape[0])
    return lambda x: bare(x.to(dtype)).float()


def by_vector(layer: Any, n_rows: int) -> Product | None:
    r"""Matrix times vector, for which libraries have other code than for matrix times matrix of one column.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; a bias is left out.
        n_rows: M, rows of activations at once.
    Returns: (M, C) float32 -> (M, R) float32; None = not for such layers.
    Lesson: 11.
    """
    if type(layer) is not nn.Linear or n_rows > 1:
        return None
    weight = layer.weight
    return lambda x: torch.mv(weight, x[0].to(weight.dtype)).float()[None]


def by_columns(layer: Any, n_rows: int) -> Product | None:
    r"""The matrix stored column after column: the output is a sum of columns, each times one feature.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; a bias is left out.
        n_rows: M, rows of activations at once.
    Returns: (M, C) float32 -> (M, R) float32; None = not for such layers.
    Lesson: 11.
    """
    if type(layer) is not nn.Linear or layer.weight.dtype != torch.float32:
        return None
    columns = layer.weight.detach().t().contiguous()
    return lambda x: torch.mm(x, columns)


def by_onednn(layer: Any, n_rows: int) -> Product | None:
    r"""oneDNN's product with the matrix put into the order that it wants for so many rows.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; a bias is left out.
        n_rows: M, rows of activations at once.
    Returns: (M, C) float32 -> (M, R) float32; None = not for such layers.
    Lesson: 11.
    """
    if type(layer) is not nn.Linear or layer.weight.dtype == torch.float16:
        return None
    dtype = layer.weight.dtype
    matrix = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), n_rows)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda x: multiply(x.to(dtype), matrix, None, "none", [], "").float()


def by_half_floats(layer: Any, n_rows: int) -> Product | None:
    r"""FBGEMM's product of float16 weights with float32 activations.

    It serves bfloat16 weights too: their 8 significant bits fit into float16's 11, and only what is smaller than 2^-17,
    that is nothing beside a model's other weights, is rounded there.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; a bias is left out.
        n_rows: M, rows of activations at once.
    Returns: (M, C) float32 -> (M, R) float32; None = not for such layers.
    Lesson: 11.
    """
    if type(layer) is not nn.Linear or layer.weight.dtype == torch.float32:
        return None
    weight = layer.weight.detach().float()
    if not (weight - weight.half().float()).abs().max() <= 2.0**-25:  # NaN: something was too large
        return None
    matrix = torch.ops.quantized.linear_prepack_fp16(weight, None)
    return lambda x: torch.ops.quantized.linear_dynamic_fp16(x, matrix)


def by_two_digits(layer: Any, n_rows: int) -> Product | None:
    r"""FBGEMM's product of whole numbers, with each activation as a number of two digits.

    Rounded to one byte, activations would lose what a few large ones leave for the rest. But a step waits for the
    memory, and a second row comes for free: the first row is the activations rounded to whole numbers, -63 to 63; the
    second is what rounding left over, 126 times enlarged. Together that is 1 / 15876 of the largest activation.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; a bias is left out.
        n_rows: M, rows of activations at once.
    Returns: (M, C) float32 -> (M, R) float32; None = not for such layers.
    Lesson: 11.
    """
    if type(layer) is not Int8Linear:
        return None
    n_out = layer.scales.shape[0]
    with warnings.catch_warnings():  # torch means to drop this kind of tensor: then this way is passed over
        warnings.simplefilter("ignore")
        whole = torch._make_per_channel_quantized_tensor(
            layer.q_weight, layer.scales.flatten().double(), torch.zeros(n_out, dtype=torch.int64), 0)
        matrix = torch.ops.quantized.linear_prepack(whole, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    enlarge = torch.tensor([[[1.0]], [[2.0 * LEVELS]]])

    def product(x: Tensor) -> Tensor:
        unit = torch.linalg.vector_norm(x, math.inf, dim=-1, keepdim=True).clamp_(min=1e-30).div_(LEVELS)
        digits = x * (enlarge / unit)  # (2, M, C)
        first, second = digits.unbind()
        second.sub_(first.round_(), alpha=2 * LEVELS)
        out = multiply(digits.flatten(0, 1), 1.0, LEVELS + 1, matrix)
        return out[: len(x)].add_(out[len(x) :], alpha=0.5 / LEVELS).mul_(unit)

    return product


def by_nibbles(layer: Any, n_rows: int) -> Product | None:
    r"""torch's kernel for weights in 4 bits.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; a bias is left out.
        n_rows: M, rows of activations at once.
    Returns: (M, C) float32 -> (M, R) float32; None = not for such layers.
    Lesson: 11.
    """
    x = torch.empty(n_rows, 1, dtype=torch.bfloat16)
    if type(layer) is not Int4Linear or not packed.suits_int4(x, layer.scales.shape[0], layer.group_size):
        return None
    matrix = packed.pack_int4(unpack_nibbles(layer.packed), layer.scales, layer.lows)
    weight, size, beside = matrix.weight, matrix.group_size, matrix.scales_and_zeros
    return lambda x: torch._weight_int4pack_mm_for_cpu(x.bfloat16(), weight, size, beside).float()


WAYS: tuple[Way, ...] = (own_forward, by_vector, by_columns, by_half_floats, by_onednn, by_two_digits, by_nibbles)
