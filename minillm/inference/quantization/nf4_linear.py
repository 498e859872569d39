r"""A frozen linear layer in NF4: its matrix is there only while it is multiplied, in the backward pass too.

Autograd would keep each restored matrix until the backward pass has used it, so that in the middle of a step the whole
model would lie in memory in floats. Here it keeps the codes, which lie there anyway, and restores a second time.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from minillm.inference.quantization import int4, nf4

SCALES_EACH = 256  # scales that share a scale


def restore_packed(
    packed: UInt8[Tensor, "R C_half"],
    q_scales: Int8[Tensor, "blocks"],
    outer: Float[Tensor, "outer"],
    mean: Float[Tensor, ""],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "R C"]:
    r"""The matrix behind packed codes with doubly quantized scales.

    The same numbers as `nf4.restore_nf4` gives of unpacked codes, with one look-up for both codes of a byte.

    Args:
        packed: (R, C / 2), uint8, from `int4.pack_nibbles`.
        q_scales: (blocks,), int8, from `nf4.double_quantize`.
        outer: their scales.
        mean: their mean.
        dtype: of the result.
    Returns: (R, C), of that dtype.
    Source: Dettmers et al. 2023, QLoRA, equation 6, doubleDequant.
    Lesson: 13.
    """
    scales = nf4.restore_scales(q_scales, outer, mean, SCALES_EACH)
    byte = torch.arange(256, device=packed.device)
    pairs = nf4.normal_levels().to(packed.device)[torch.stack([byte % 16, byte // 16], dim=1)]
    values = F.embedding(packed.int(), pairs).reshape(len(q_scales), -1)
    return (values * scales[:, None]).reshape(len(packed), -1).to(dtype)


class RestoredProduct(torch.autograd.Function):
    r"""x W^T with a matrix that is restored for it, and again for its gradient. Lesson: 13."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *stored: Tensor) -> Tensor:
        ctx.save_for_backward(*stored)
        return x @ restore_packed(*stored, x.dtype).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        r"""The gradient for x; codes and scales are not trained.

        Args:
            ctx: what forward has left.
            grad: for the output.
        Returns: the gradient, and None for each of what is stored.
        """
        stored = ctx.saved_tensors
        return grad @ restore_packed(*stored, grad.dtype), *(None for _ in stored)


class Nf4Linear(nn.Module):
    r"""A linear layer in NF4 with double quantization: 4.127 bits a weight in blocks of 64.

    It is not trained; gradients pass through to its input. Buffers: `packed` (R, C / 2), uint8; `q_scales`, int8, one a
    block; `outer`, float32, one for 256 of those; `mean`, float32; `bias` (R,), or None.

    Args:
        packed: as in `restore_packed`.
        q_scales: likewise.
        outer: likewise.
        mean: likewise.
        bias: (R,), or None.
        dtype: that `weight` is restored in; a product is computed in that of its input.
    Source: Dettmers et al. 2023, QLoRA, section 3.
    Lesson: 13.
    """

    def __init__(
        self, packed: Tensor, q_scales: Tensor, outer: Tensor, mean: Tensor, bias: Tensor | None, dtype: torch.dtype
    ):
        super().__init__()
        for name, tensor in (("packed", packed), ("q_scales", q_scales), ("outer", outer), ("mean", mean)):
            self.register_buffer(name, tensor)
        self.register_buffer("bias", bias)
        self.dtype = dtype

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None, group_size: int = 64) -> "Nf4Linear":
        r"""Quantize a matrix.

        Args:
            weight: (R, C), float; C even.
            bias: (R,), or None.
            group_size: numbers that share a scale; must divide the count of all.
        Returns: the layer; it shares nothing with the weight.
        Raises:
            ValueError: if C is odd, or the group size does not fit.
        """
        codes, scales = nf4.nf4_quantize(weight.detach(), group_size)
        small = [each.clone() for each in nf4.double_quantize(scales, SCALES_EACH)]  # no views of padded ones
        kept_bias = None if bias is None else bias.detach().clone()
        return cls(int4.pack_nibbles(codes), *small, kept_bias, weight.dtype)

    @property
    def in_features(self) -> int:
        r"""C."""
        return 2 * self.packed.shape[1]

    @property
    def out_features(self) -> int:
        r"""R."""
        return self.packed.shape[0]

    @property
    def weight(self) -> Tensor:
        r"""The matrix, restored anew each time: writing into it changes nothing here."""
        return restore_packed(*self._stored(), self.dtype)

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch R"]:
        out = RestoredProduct.apply(x, *self._stored())
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _stored(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.packed, self.q_scales, self.outer, self.mean

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        r"""Devices are free; the types of codes and scales are part of the format, so that only `dtype` follows."""
        wanted = fn(torch.empty(0, dtype=self.dtype, device=self.packed.device)).dtype
        super()._apply(lambda tensor: _moved(tensor, fn) if tensor is not self.bias else fn(tensor), recurse)
        self.dtype = wanted
        return self


def _moved(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    made = fn(tensor)
    return made if made.dtype == tensor.dtype else tensor.to(made.device)
