r"""A pre-norm block forward and backward, written out by hand: what autograd does, over `ops` and `chain`.

Each line of the backward pass undoes a line of the forward pass, last to first. A linear layer y = x @ w.T + b has
three gradients: that of x is grad @ w, that of w is grad.T @ x, that of b is the sum of grad over all tokens. The last
two wait until the end: nothing else needs them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.training.fast.chain import Chain
from minillm.training.fast.ops import HeadSizes, Layouts, Ops, layouts

Gradients = Callable[[nn.Parameter], Tensor]
Turns = tuple[Tensor, Tensor] | None


class BlockNorm(NamedTuple):
    r"""A norm: its weight, its bias or None, eps, and whether it takes the mean off (LayerNorm). Lesson: 08."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    eps: float
    centred: bool


@dataclass(frozen=True)
class BlockParts:
    r"""What a block consists of.

    Args:
        attn_norm: before attention.
        qkv: the three projections.
        heads: sizes of attention.
        o_proj: the projection after it.
        ffn_norm: before the FFN.
        up: gate and up projection of a GLU, or the up projection alone.
        kind: of activation, as `chain` counts them.
        down: the last projection.
    Lesson: 08.
    """

    attn_norm: BlockNorm
    qkv: tuple[nn.Linear, ...]
    heads: HeadSizes
    o_proj: nn.Linear
    ffn_norm: BlockNorm
    up: tuple[nn.Linear, ...]
    kind: int
    down: nn.Linear

    @property
    def gated(self) -> bool:
        r"""Whether the FFN is a GLU."""
        return len(self.up) == 2


class Kept(NamedTuple):
    r"""What the backward pass needs of the forward pass. Lesson: 08."""

    x: Tensor
    normal: Tensor  # paired, as are the three others that gradients of weights read
    stats: Tensor
    qkv: Tensor
    seen: Layouts
    peaks: Tensor
    middle: Tensor  # the stream between attention and FFN
    middle_normal: Tensor
    middle_stats: Tensor
    hidden: Tensor
    bent: Tensor  # of an MLP the activation's slopes, of a GLU what it was given


def run_forward(ops: Ops, b: BlockParts, x: Tensor, length: int, turns: Turns) -> tuple[Tensor, Kept]:
    r"""middle = x + attn(attn_norm(x)), and middle + ffn(ffn_norm(middle)).

    Args:
        ops: the kernel.
        b: the block.
        x: the residual stream, (B * T, D), bf16.
        length: T.
        turns: cosines and sines of RoPE's angles, (T, half) each, float32; None = no rotation.
    Returns: the stream after the block, and what `run_backward` wants.
    Lesson: 08.
    """
    (n, width), hidden_width = x.shape, b.down.in_features
    chain = Chain(ops, n)
    normal = Layouts(chain.scratch(width), layouts(n, width, rows=False).paired)
    qkv = layouts(n, _width(b.qkv), paired=False)
    stats = chain.norm(x, *b.attn_norm, normal)
    _add_linear(chain, normal.rows, b.qkv, qkv)
    if turns is not None:
        chain.turn(qkv.rows, *turns, b.heads)
    chain.run()
    seen, peaks = ops.attend(qkv.rows, length, b.heads)

    chain = Chain(ops, n)
    middle, out = layouts(n, width, paired=False), layouts(n, width, paired=False)
    middle_normal = Layouts(chain.scratch(width), layouts(n, width, rows=False).paired)
    hidden = Layouts(chain.scratch(hidden_width), layouts(n, hidden_width, rows=False).paired)
    bent = layouts(n, _width(b.up), paired=False)
    _add_linear(chain, seen.rows, [b.o_proj], middle, residual=x)
    middle_stats = chain.norm(middle.rows, *b.ffn_norm, middle_normal)
    if b.gated:
        _add_linear(chain, middle_normal.rows, b.up, bent)
        chain.gate(bent.rows, b.kind, hidden)
    else:
        _add_linear(chain, middle_normal.rows, b.up, hidden, kind=b.kind, slope=bent.rows)
    _add_linear(chain, hidden.rows, [b.down], out, residual=middle.rows)
    chain.run()
    return out.rows, Kept(x, normal.paired, stats, qkv.rows, seen, peaks, middle.rows, middle_normal.paired,
                          middle_stats, hidden.paired, bent.rows)


def run_backward(
    ops: Ops, b: BlockParts, kept: Kept, length: int, turns: Turns, grad: Tensor, gradient_of: Gradients
) -> Tensor:
    r"""From the gradient of the block's result to that of its input; those of its weights are added on the way.

    Args:
        ops: the kernel.
        b: the block.
        kept: from `run_forward`.
        length: as in `run_forward`.
        turns: as in `run_forward`.
        grad: (B * T, D), bf16.
        gradient_of: where a parameter's gradient is added up, float32.
    Returns: the gradient of x, (B * T, D), bf16.
    Lesson: 08.
    """
    n, width = grad.shape
    chain = Chain(ops, n)
    out, middle = layouts(n, width, rows=False), layouts(n, width)
    up = Layouts(chain.scratch(_width(b.up)), layouts(n, _width(b.up), rows=False).paired)
    normal, seen = Layouts(chain.scratch(width), None), layouts(n, b.o_proj.in_features, paired=False)
    chain.pairing(grad, out.paired)
    if b.gated:
        hidden = Layouts(chain.scratch(b.down.in_features), None)
        _add_back(chain, grad, [b.down], hidden)
        chain.gate(kept.bent, b.kind, up, hidden.rows)
    else:
        _add_back(chain, grad, [b.down], up, factor=kept.bent)
    _add_back(chain, up.rows, b.up, normal)
    ffn_norm = _add_norm_back(chain, b.ffn_norm, kept.middle, kept.middle_stats, normal.rows, grad, middle)
    _add_back(chain, middle.rows, [b.o_proj], seen)
    chain.run()
    qkv = ops.attend_back(kept.qkv, length, b.heads, kept.seen.rows, kept.peaks, seen.rows)

    chain = Chain(ops, n)
    normal, x = Layouts(chain.scratch(width), None), layouts(n, width, paired=False)
    if turns is not None:
        chain.turn(qkv.rows, *turns, b.heads, back=True)
        chain.pairing(qkv.rows, qkv.paired)
    _add_back(chain, qkv.rows, b.qkv, normal)
    attn_norm = _add_norm_back(chain, b.attn_norm, kept.x, kept.stats, normal.rows, middle.rows, x)
    chain.run()

    for norm, partial in ((b.ffn_norm, ffn_norm), (b.attn_norm, attn_norm)):
        for parameter, part in zip((norm.weight, norm.bias), partial.sum(0), strict=True):
            if parameter is not None:
                gradient_of(parameter).add_(part)
    for layers, paired, read in (((b.down,), out.paired, kept.hidden), (b.up, up.paired, kept.middle_normal),
                                 ((b.o_proj,), middle.paired, kept.seen.paired), (b.qkv, qkv.paired, kept.normal)):
        biases = [None if layer.bias is None else gradient_of(layer.bias) for layer in layers]
        ops.weight_grad(paired, read, [gradient_of(layer.weight) for layer in layers], biases)
    return x.rows


def _width(layers: Sequence[nn.Linear]) -> int:
    return sum(layer.out_features for layer in layers)


def _add_linear(chain: Chain, x: Tensor, layers: Sequence[nn.Linear], out: Layouts, **ending: Tensor | int) -> None:
    bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
    chain.product(x, chain.ops.panels([layer.weight for layer in layers]), out, bias, **ending)


def _add_back(chain: Chain, grad: Tensor, layers: Sequence[nn.Linear], out: Layouts, **ending: Tensor) -> None:
    chain.product(grad, chain.ops.panels_back([layer.weight for layer in layers]), out, **ending)


def _add_norm_back(
    chain: Chain, norm: BlockNorm, x: Tensor, stats: Tensor, grad: Tensor, residual: Tensor, out: Layouts
) -> Tensor:
    return chain.norm_back(x, norm.weight, norm.centred, stats, grad, residual, out)
