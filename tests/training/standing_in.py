r"""In the place of our kernel: the blocks by torch, but their gradients go where the kernel puts them."""

import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace

import torch
from torch.autograd.function import once_differentiable

from minillm.training.block_forwards import replaced_forwards


def stand_in(monkeypatch, reason=None) -> SimpleNamespace:
    r"""Put it there, where no compiler is needed; `reason()` is what it says of a machine without it.

    Like the kernel, it leaves rows of fewer than 8 tokens to torch, and counts.

    Returns: the module that stands for `training.fast.blocks`; its `n_calls` counts the blocks that it has computed.
    """
    blocks = SimpleNamespace(n_calls=0, why_not=lambda model, dtype, device: reason() if reason else None)
    blocks.kernel_blocks = partial(_standing_in, blocks)
    package = ModuleType("minillm.training.fast")
    package.blocks = blocks
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return blocks


@contextmanager
def _standing_in(blocks, model, gradient_of):
    passes = Counter()
    with replaced_forwards(
            model.blocks, lambda block: partial(_forward, blocks, passes, block, block.forward, gradient_of)):
        yield passes


def _forward(blocks, passes, block, forward, gradient_of, x, positions, angles=None, cache=None):
    ours = torch.is_grad_enabled() and cache is None and x.shape[1] >= 8
    passes["kernel" if ours else "PyTorch"] += torch.is_grad_enabled()
    if not ours:
        return forward(x, positions, angles, cache)
    blocks.n_calls += 1
    return _AddedStraight.apply(x, partial(forward, positions=positions, angles=angles), gradient_of, block)


class _AddedStraight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward, gradient_of, block):
        ctx.parameters, ctx.gradient_of = list(block.parameters()), gradient_of
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.out = forward(ctx.x)
        return ctx.out.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        own, *rest = torch.autograd.grad(ctx.out, [ctx.x, *ctx.parameters], grad)
        for parameter, its_grad in zip(ctx.parameters, rest, strict=True):
            ctx.gradient_of(parameter).add_(its_grad)
        return own, None, None, None
