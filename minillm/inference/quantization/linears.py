r"""Layers whose weights are stored in 8 or 4 bits, in place of `nn.Linear` and `nn.Embedding`.

Their buffers are the plain formats of `rows` and `int4`, the same on every device. The forward pass is the readable
function of the format; torch's kernels take its place where a probe finds them and they pay (`packed`), and never on
the plain path. Activations keep whatever type they come in. Weights are not trained, but gradients pass through.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.inference.quantization import int4, int8_linear, packed, rows
from minillm.layers.paths import use_fused


class Int8Linear(nn.Module):
    r"""A linear layer in 8 bits a weight, one scale a row.

    Buffers: `q_weight` (R, C), int8; `scales` (R, 1), float32; `bias` (R,), or None.

    Args:
        q_weight: from `rows.quantize_rows`.
        scales: likewise.
        bias: (R,), or None.
        dtype: that `weight` is restored in; the activations' own.
    Source: Dettmers et al. 2022, LLM.int8(), section 2.
    Lesson: 11.
    """

    def __init__(self, q_weight: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("q_weight", q_weight)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)
        self.dtype = dtype

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype | None = None) -> "Int8Linear":
        r"""Quantize a matrix.

        Args:
            weight: (R, C), float.
            bias: (R,), or None.
            dtype: of the bias and of the activations to come; None = the weight's.
        Returns: the layer.
        """
        dtype = dtype or weight.dtype
        return cls(*rows.quantize_rows(weight.detach()), _plain_bias(bias, dtype), dtype)

    @property
    def weight(self) -> Tensor:
        r"""The matrix, restored anew each time: writing into it changes nothing here."""
        return rows.restore_rows(self.q_weight, self.scales, self.dtype)

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch R"]:
        if use_fused() and packed.suits_int8(x):
            out = packed.int8_product(x, self.q_weight, self.scales)
            return out if self.bias is None else out + self.bias
        return int8_linear.int8_linear(x, self.q_weight, self.scales, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        _require_same_type(self.scales, fn)
        return super()._apply(fn, recurse)


class Int4Linear(nn.Module):
    r"""A linear layer in 4 bits a weight, a scale and a lowest value for each group of a row.

    Buffers: `packed` (R, C / 2), uint8, column 2j in the low and 2j + 1 in the high four bits of byte j; `scales` and
    `lows`, (R, G), float16 (float32 where a scale is too small or a number too large for that); `bias` (R,), or None.
    What torch's kernel wants is made beside them when it is first used, and takes as much memory again.

    Args:
        packed_codes: from `int4.pack_nibbles`.
        scales: from `int4.int4_groups`.
        lows: likewise.
        bias: (R,), or None.
        dtype: that `weight` is restored in; the activations' own.
    Source: the format Q4_1 of GGUF.
    Lesson: 11.
    """

    def __init__(self, packed_codes: Tensor, scales: Tensor, lows: Tensor, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("packed", packed_codes)
        self.register_buffer("scales", scales)
        self.register_buffer("lows", lows)
        self.register_buffer("bias", bias)
        self.dtype = dtype
        self._kernel_matrix: packed.PackedInt4 | None = None
        self.register_load_state_dict_post_hook(Int4Linear._forget)

    @classmethod
    def from_weight(
        cls, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype | None = None, group_size: int = 32
    ) -> "Int4Linear":
        r"""Quantize a matrix.

        Args:
            weight: (R, C), float.
            bias: (R,), or None.
            dtype: of the bias and of the activations to come; None = the weight's.
            group_size: numbers that share a scale; even, and a divisor of C.
        Returns: the layer.
        Raises:
            ValueError: if the group size does not fit.
        """
        dtype = dtype or weight.dtype
        codes, scales, lows = int4.int4_groups(weight.detach(), group_size)
        return cls(int4.pack_nibbles(codes), *_narrowed(scales, lows), _plain_bias(bias, dtype), dtype)

    @property
    def group_size(self) -> int:
        r"""Numbers that share a scale."""
        return 2 * self.packed.shape[1] // self.scales.shape[1]

    @property
    def weight(self) -> Tensor:
        r"""The matrix, restored anew each time: writing into it changes nothing here."""
        return int4.restore_int4(int4.unpack_nibbles(self.packed), self.scales, self.lows, self.dtype)

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch R"]:
        if use_fused() and packed.suits_int4(x, self.packed.shape[0], self.group_size):
            if self._kernel_matrix is None:
                self._kernel_matrix = packed.pack_int4(int4.unpack_nibbles(self.packed), self.scales, self.lows)
            out = packed.int4_product(x, self._kernel_matrix)
            return out if self.bias is None else out + self.bias
        return int4.int4_linear(x, self.packed, self.scales, self.lows, self.bias)

    def _forget(self, _: Any) -> None:
        self._kernel_matrix = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        _require_same_type(self.scales, fn)
        self._kernel_matrix = None
        return super()._apply(fn, recurse)


class Int8Embedding(nn.Module):
    r"""Token vectors in 8 bits a number, one scale a token.

    Args:
        table: the rows; where the head is tied to the embedding, the head itself.
    Source: Dettmers et al. 2022, LLM.int8(), section 2.
    Lesson: 11.
    """

    def __init__(self, table: Int8Linear):
        super().__init__()
        self.table = table

    @classmethod
    def from_weight(cls, weight: Tensor, dtype: torch.dtype | None = None) -> "Int8Embedding":
        r"""Quantize a table.

        Args:
            weight: (V, D), float.
            dtype: of the vectors that come out; None = the weight's.
        Returns: the layer.
        """
        return cls(Int8Linear.from_weight(weight, None, dtype))

    @property
    def weight(self) -> Tensor:
        r"""The table, restored anew each time: writing into it changes nothing here."""
        return self.table.weight

    def forward(self, token_ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        return rows.restore_rows(self.table.q_weight[token_ids], self.table.scales[token_ids], self.table.dtype)


def _plain_bias(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.detach().to(dtype, copy=True)


def _narrowed(scales: Tensor, lows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Scales and lowest values in float16, if it holds them as well as numbers usually are held."""
    limits = torch.finfo(torch.float16)
    small = ((scales > 0) & (scales < limits.tiny)).any()
    large = torch.maximum(scales.amax(), lows.abs().amax()) > limits.max
    return (scales, lows) if small or large else (scales.half(), lows.half())


def _require_same_type(scales: Tensor, fn: Callable[[Tensor], Tensor]) -> None:
    r"""Refuse what would give the buffers another type, as .to(dtype) and .half() do; devices are free."""
    if (dtype := fn(scales[:0]).dtype) != scales.dtype:
        raise ValueError(f"dtype={dtype}: the weights are quantized, their types are part of the format; to have other "
                         "activations use quantize_model(model, weights, dtype)")
