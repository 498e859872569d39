r"""The functions of `kernel.cpp` over tensors: each does one thing to whole matrices.

Matrices are bf16 and contiguous, with an even number of rows, and widths that are multiples of 32. They come in two
layouts, and whoever makes one says which of them will be read:

    rows      (M, N), as always                                   to be multiplied by a weight
    paired    (N / 32, M / 2, 32, 2): a feature in two rows       to be summed over the rows: gradients of weights

What mixes rows is here; what is done to each row by itself is a step of a `chain`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

PANEL = 32  # columns that are laid out together

Field = Tensor | int | float | None


class Layouts(NamedTuple):
    r"""A matrix in one or both layouts. Lesson: 08."""

    rows: Tensor | None
    paired: Tensor | None


class HeadSizes(NamedTuple):
    r"""Of attention: query heads, key/value heads, features of each, factor on the scores. Lesson: 08."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float


def layouts(n_rows: int, width: int, rows: bool = True, paired: bool = True) -> Layouts:
    r"""Room for a matrix.

    Args:
        n_rows: M, even.
        width: N, a multiple of 32.
        rows: whether it will be multiplied by a weight.
        paired: whether it will be summed over its rows.
    Returns: unfilled tensors, bf16.
    Lesson: 08.
    """
    return Layouts(torch.empty(n_rows, width, dtype=torch.bfloat16) if rows else None,
                   torch.empty(width // PANEL, n_rows // 2, PANEL, 2, dtype=torch.bfloat16) if paired else None)


@dataclass(frozen=True)
class Ops:
    r"""The compiled functions, and how they are run.

    Args:
        library: from `build.load_training_kernel`.
        fast: whether by the processor's bf16 instructions; False = by what every processor has, for comparison.
        n_threads: how many threads work, torch's own.
    Lesson: 08.
    """

    library: ctypes.CDLL
    fast: bool
    n_threads: int

    def run(self, name: str, n_chunks: int, *fields: Field) -> None:
        r"""Call one function.

        Args:
            name: without its prefix.
            n_chunks: pieces of work.
            fields: of its struct, in order.
        """
        getattr(self.library, f"kernel_{name}")(as_struct(fields), n_chunks, self.n_threads, self.fast)

    def panels(self, weights: Sequence[Tensor]) -> Tensor:
        r"""Weights (N_i, K), stacked to (N, K), laid out for x @ w.T: (N / 32, K / 2, 32, 2)."""
        width = weights[0].shape[1]
        out = torch.empty(sum(w.shape[0] for w in weights) // PANEL, width // 2, PANEL, 2, dtype=torch.bfloat16)
        start = 0
        for weight in weights:
            n_panels = weight.shape[0] // PANEL
            self.run("transposed", n_panels, weight, weight.shape[0], width, out[start:], width // 2, 0)
            start += n_panels
        return out

    def panels_back(self, weights: Sequence[Tensor]) -> Tensor:
        r"""Weights (N_i, K), stacked to (N, K), laid out for grad @ w: (K / 32, N / 2, 32, 2)."""
        height, width = sum(w.shape[0] for w in weights), weights[0].shape[1]
        out = torch.empty(width // PANEL, height // 2, PANEL, 2, dtype=torch.bfloat16)
        start = 0
        for weight in weights:
            self.run("paired", width // PANEL, weight, weight.shape[0], width, out, height // 2, start)
            start += weight.shape[0] // 2
        return out

    def weight_grad(self, grad: Tensor, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        r"""Add to the gradients of a linear layer, or of several that read the same.

        Args:
            grad: of what they gave, paired, side by side.
            x: what they read, paired.
            weights: their gradients so far, (N_i, K), float32, changed in place.
            biases: likewise (N_i,), or None.
        """
        start = 0
        for weight, bias in zip(weights, biases, strict=True):
            n_panels = weight.shape[0] // PANEL
            self.run("weight_grad", n_panels, grad[start:], x, x.shape[1], x.shape[0], weight, bias)
            start += n_panels

    def attend(self, qkv: Tensor, length: int, heads: HeadSizes) -> tuple[Layouts, Tensor]:
        r"""Causal attention within each sequence.

        Args:
            qkv: queries, keys, values side by side, rows (B * T, (H + 2 Hk) * Dh).
            length: T, even, at least 8.
            heads: sizes.
        Returns: what the heads have read, (B * T, H * Dh), in both layouts, and for each query the logarithm, to base
            2, of the sum of its exponentials, (B, H, T), float32.
        """
        batch = qkv.shape[0] // length
        out, peaks = layouts(qkv.shape[0], heads.n_heads * heads.head_dim), torch.empty(batch, heads.n_heads, length)
        self.run("attend", batch * heads.n_kv_heads, qkv, length, *heads, *out_fields(out), peaks, None, None)
        return out, peaks

    def attend_back(
        self, qkv: Tensor, length: int, heads: HeadSizes, seen: Tensor, peaks: Tensor, grad: Tensor
    ) -> Layouts:
        r"""Back through `attend`.

        Args:
            qkv: as in `attend`.
            length: as in `attend`.
            heads: as in `attend`.
            seen: what it gave, rows.
            peaks: what it gave.
            grad: of seen, rows.
        Returns: the gradient of qkv in both layouts.
        """
        out, batch = layouts(*qkv.shape), qkv.shape[0] // length
        self.run("attend_back", batch * heads.n_kv_heads, qkv, length, *heads, *out_fields(out), peaks, seen, grad)
        return out


def as_struct(fields: Sequence[Field]) -> ctypes.Array:
    r"""A struct of the kernel; all of its fields have 8 bytes.

    Args:
        fields: in order: tensors become pointers, None a null pointer.
    Returns: the struct, which does not keep the tensors.
    Lesson: 08.
    """
    numbers = [each.data_ptr() if isinstance(each, Tensor) else each or 0 for each in fields]
    for i, number in enumerate(numbers):
        if isinstance(number, float):  # its bits
            numbers[i] = ctypes.c_int64.from_buffer(ctypes.c_double(number)).value
    return (ctypes.c_int64 * len(numbers))(*numbers)


def rows_fields(x: Tensor | None) -> tuple[Field, ...]:
    r"""The kernel's `Rows`.

    Args:
        x: a matrix (M, N), or scratch (threads, rows, N); None = missing.
    Returns: where, how wide, and for scratch how many numbers each thread has.
    Lesson: 08.
    """
    return (None, 0, 0) if x is None else (x, x.shape[-1], x[0].numel() if x.dim() == 3 else 0)


def out_fields(x: Layouts) -> tuple[Field, ...]:
    r"""The kernel's `Out`.

    Args:
        x: from `layouts`, perhaps with scratch for its rows.
    Returns: both layouts' fields.
    Lesson: 08.
    """
    return *rows_fields(x.rows), x.paired, 0 if x.paired is None else x.paired.shape[1]
