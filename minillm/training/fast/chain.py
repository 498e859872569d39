r"""What is done to each row of a matrix by itself: a list of steps, all done for some rows, then for the next.

What one step leaves to the next is then still in a processor's own cache, and need not lie in memory at all: such
matrices are "scratch", with room for the rows that a thread has in hand, a "span". See `ops` for the layouts.
"""

import ctypes
import math

import torch
from torch import Tensor

from minillm.training.fast.ops import Field, HeadSizes, Layouts, Ops, as_struct, out_fields, rows_fields

ROWS = 8  # of a tile, as tiles.hpp has it
MOST_ROWS = 128  # of a span: what a thread makes for so many still fits into its own cache
KINDS = {"gelu": 1, "gelu_tanh": 2, "relu": 3, "relu_squared": 4, "silu": 5}  # as rows.hpp counts them
STEPS = ("product", "pairing", "norm", "norm_back", "gate", "turn")  # likewise


class Chain:
    r"""Steps over the rows of matrices, done one after the other for some rows at a time, when `run` is called.

    Every step writes into what it is given, from `layouts` or `scratch`, or gives what it makes room for.

    Args:
        ops: the kernel.
        n_rows: M, even, at least 8.
    Lesson: 08.
    """

    def __init__(self, ops: Ops, n_rows: int):
        self.ops, self.n_rows = ops, n_rows
        self._steps: list[tuple[str, tuple[Field, ...]]] = []

    @property
    def rows_each(self) -> int:
        r"""Rows of a span: whole tiles; the same whatever the threads, so that sums are too.

        An even number of spans is aimed at, so that two threads have the same to do; what is left over may add one.
        """
        n_spans = 2 * math.ceil(self.n_rows / (2 * MOST_ROWS))
        return max(ROWS, self.n_rows // n_spans // ROWS * ROWS)

    @property
    def n_spans(self) -> int:
        r"""How many times the steps are done, each time for other rows; the last time also for those left over."""
        return max(1, self.n_rows // self.rows_each)

    def scratch(self, width: int) -> Tensor:
        r"""Room for the rows in hand, which nobody but a later step can read: (threads, rows, width)."""
        # Twice, for the last span: what is left over is less than a span more.
        return torch.empty(self.ops.n_threads, 2 * self.rows_each, width, dtype=torch.bfloat16)

    def product(
        self,
        left: Tensor,
        right: Tensor,
        out: Layouts,
        bias: Tensor | None = None,
        factor: Tensor | None = None,
        residual: Tensor | None = None,
        kind: int = 0,
        slope: Tensor | None = None,
    ) -> None:
        r"""out = act(left @ right + bias) * factor + residual, of which a call uses two at most.

        Args:
            left: rows, (M, K).
            right: from `Ops.panels` or `Ops.panels_back`.
            out: (M, N).
            bias: (N,).
            factor: rows, (M, N).
            residual: rows, (M, N).
            kind: of activation, from `KINDS`; 0 = none.
            slope: rows, (M, N), filled with the slope of the activation at each place.
        """
        self._add("product", *rows_fields(left), right, right.shape[0], bias, *rows_fields(factor),
                  *rows_fields(residual), *out_fields(out), kind, *rows_fields(slope))

    def pairing(self, x: Tensor, out: Tensor) -> None:
        r"""Rows (M, N) into paired."""
        self._add("pairing", *rows_fields(x), *out_fields(Layouts(None, out)))

    def norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool, out: Layouts) -> Tensor:
        r"""LayerNorm (centred) or RMSNorm.

        Args:
            x: rows, (M, D).
            weight: (D,).
            bias: (D,), or None.
            eps: inside the root.
            centred: whether the mean is taken off.
            out: (M, D).
        Returns: what each row will have been shifted and scaled by, (M, 2), float32.
        """
        stats = torch.empty(self.n_rows, 2)
        self._add("norm", *rows_fields(x), weight, bias, centred, float(eps), *out_fields(out), stats,
                  *rows_fields(None), *rows_fields(None), None)
        return stats

    def norm_back(
        self, x: Tensor, weight: Tensor, centred: bool, stats: Tensor, grad: Tensor, residual: Tensor, out: Layouts
    ) -> Tensor:
        r"""Back through `norm` to x, and the gradient of the connection around it added.

        Args:
            x: as in `norm`.
            weight: as in `norm`.
            centred: as in `norm`.
            stats: from `norm`.
            grad: of what it gave, rows (M, D).
            residual: of the connection, rows (M, D).
            out: the gradient of x, (M, D).
        Returns: what will be the gradients of weight and bias, in parts to be added up, (parts, 2, D), float32.
        """
        partial = torch.empty(self.n_spans, 2, weight.shape[0])
        self._add("norm_back", *rows_fields(x), weight, None, centred, 0.0, *out_fields(out), stats, *rows_fields(grad),
                  *rows_fields(residual), partial)
        return partial

    def gate(self, both: Tensor, kind: int, out: Layouts, grad: Tensor | None = None) -> None:
        r"""act(gate) * up; or back through it.

        Args:
            both: gate and up side by side, rows (M, 2F).
            kind: of activation, from `KINDS`.
            out: (M, F), or the gradient of both, (M, 2F).
            grad: of the result, rows (M, F); None = forward.
        """
        self._add("gate", *rows_fields(both), *rows_fields(grad), kind, *out_fields(out))

    def turn(self, qkv: Tensor, cosine: Tensor, sine: Tensor, heads: HeadSizes, back: bool = False) -> None:
        r"""RoPE on queries and keys, in place.

        Args:
            qkv: rows (M, (H + 2 Hk) * Dh), changed.
            cosine: of the angles, (T, half), float32.
            sine: likewise.
            heads: sizes.
            back: whether to turn the other way round.
        """
        length, half = cosine.shape
        self._add("turn", *rows_fields(qkv), cosine, sine, length, heads.n_heads + heads.n_kv_heads, heads.head_dim,
                  2 * half, -1.0 if back else 1.0)

    def run(self) -> None:
        r"""Do all steps."""
        jobs = [as_struct(fields) for _, fields in self._steps]  # kept until the kernel is done with them
        numbers = [STEPS.index(name) for name, _ in self._steps]
        steps = as_struct([x for n, job in zip(numbers, jobs, strict=True) for x in (n, ctypes.addressof(job))])
        self.ops.run("chain", self.n_spans, ctypes.addressof(steps), len(jobs), self.n_rows, self.rows_each)

    def _add(self, name: str, *fields: Field) -> None:
        self._steps.append((name, fields))
