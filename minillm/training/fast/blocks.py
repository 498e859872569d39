r"""Which blocks the kernel can compute, and how a model's are handed over to it for as long as it is trained."""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minillm.layers import recorder
from minillm.layers.attention import Attention
from minillm.layers.ffn import GLU, MLP
from minillm.layers.norms import LayerNorm, RMSNorm
from minillm.model.block import Block
from minillm.training.block_forwards import replaced_forwards
from minillm.training.fast import build
from minillm.training.fast.block_pass import BlockNorm, BlockParts, Gradients, run_backward, run_forward
from minillm.training.fast.chain import KINDS, ROWS
from minillm.training.fast.ops import PANEL, HeadSizes, Ops


def why_not(model: nn.Module, dtype: str, device: torch.device) -> str | None:
    r"""What keeps the kernel from training a model here; builds it to find out, if nothing else does.

    Args:
        model: on the device.
        dtype: `fp32`, `bf16` or `fp16`: what is computed in.
        device: where.
    Returns: the reason; None = it can be used, and is worth it.
    Lesson: 08.
    """
    if device.type != "cpu" or dtype != "bf16":
        return f"the kernel computes in bf16 on a CPU, and this is {dtype} on {device.type}"
    blocks = list(getattr(model, "blocks", []))
    if not blocks:
        return f"{type(model).__name__} has no list `blocks`"
    return next(filter(None, map(_why_not_block, blocks)), None) or build.training_kernel_failure()


@contextmanager
def kernel_blocks(
    model: nn.Module, gradient_of: Gradients, active: bool = True, fast: bool = True
) -> Iterator[Counter[str]]:
    r"""Inside, the kernel computes the blocks of a model wherever they are trained, and adds up their gradients.

    Calls with a cache, without gradients, with padding, with a recorder or of fewer than 8 tokens run as always.

    Args:
        model: has a list `blocks`, of the forms that `why_not` lets pass, all of whose parameters are trained.
        gradient_of: parameter -> where its gradient is added up, float32, of its shape; its `.grad` stays empty.
        active: False changes nothing, so that a setting can be passed on.
        fast: False takes the code that every processor can run, for comparison.
    Returns: a context manager, which gives counts of the blocks' forward passes with gradients: those that the `kernel`
        has computed, and those that it left to `PyTorch`.
    Raises:
        KernelUnavailable: if the kernel cannot be built or loaded.
        ValueError: if a block is of another form.
    Lesson: 08.
    """
    blocks = model.blocks if active else []
    for block in blocks:
        if reason := _why_not_block(block):
            raise ValueError(f"model: {reason}; train it without the kernel (kernel=False, --no-kernel)")
    library = build.load_training_kernel() if active else None
    passes: Counter[str] = Counter()
    with replaced_forwards(blocks, lambda block: partial(
            _block_forward, block.forward, passes, library, fast, _parts(block), gradient_of)):
        yield passes


def _block_forward(
    forward: Callable[..., Tensor], passes: Counter[str], library: ctypes.CDLL, fast: bool, parts: BlockParts,
    gradient_of: Gradients, x: Tensor, positions: Tensor, angles: Tensor | None = None, cache: Any = None,
) -> Tensor:
    trained = cache is None and torch.is_grad_enabled() and x.requires_grad and not recorder.recording()
    ours = trained and _fits(x, positions, angles)
    if torch.is_grad_enabled():
        passes["kernel" if ours else "PyTorch"] += 1
    if not ours:
        return forward(x, positions, angles, cache)
    if x.shape[1] % 2:  # the kernel takes rows in pairs: one more token, which nobody sees
        more = (0, 0, 0, 1)
        return _by_kernel(library, fast, parts, gradient_of, F.pad(x, more),
                          None if angles is None else F.pad(angles, more))[:, :-1]
    return _by_kernel(library, fast, parts, gradient_of, x, angles)


def _by_kernel(
    library: ctypes.CDLL, fast: bool, parts: BlockParts, gradient_of: Gradients, x: Tensor, angles: Tensor | None
) -> Tensor:
    turns = None if angles is None else (angles.cos(), angles.sin())
    return _KernelBlock.apply(x, Ops(library, fast, torch.get_num_threads()), parts, turns, gradient_of)


def _fits(x: Tensor, positions: Tensor, angles: Tensor | None) -> bool:
    length = x.shape[1]
    if x.dtype != torch.bfloat16 or length < ROWS or positions.dim() > 1:
        return False
    if angles is not None and (angles.dim() > 2 or angles.shape[-1] % (PANEL // 2)):
        return False
    return bool((positions == torch.arange(length)).all())  # no padding, nothing before


class _KernelBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ops: Ops, parts: BlockParts, turns: Any, gradient_of: Gradients) -> Tensor:
        out, kept = run_forward(ops, parts, x.reshape(-1, x.shape[-1]).contiguous(), x.shape[1], turns)
        ctx.run = ops, parts, kept, x.shape[1], turns
        ctx.gradient_of = gradient_of
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.run is None:
            raise RuntimeError("what a block keeps for its backward pass is gone after one; compute the loss again")
        run, ctx.run = ctx.run, None  # else it would lie there until the loss is forgotten
        rows = grad.reshape(-1, grad.shape[-1]).contiguous()
        return run_backward(*run, rows, ctx.gradient_of).view(grad.shape), None, None, None, None


def _parts(block: Block) -> BlockParts:
    attn, ffn = block.attn, block.ffn
    head_dim = attn.q_proj.out_features // attn.n_heads
    heads = HeadSizes(attn.n_heads, attn.n_kv_heads, head_dim, attn.scale or head_dim**-0.5)
    up = (ffn.gate_proj, ffn.up_proj) if isinstance(ffn, GLU) else (ffn.up_proj,)
    return BlockParts(_norm(block.attn_norm), (attn.q_proj, attn.k_proj, attn.v_proj), heads, attn.o_proj,
                      _norm(block.ffn_norm), up, KINDS[ffn.activation], ffn.down_proj)


def _norm(norm: nn.Module) -> BlockNorm:
    return BlockNorm(norm.weight, getattr(norm, "bias", None), norm.eps, isinstance(norm, LayerNorm))


def _why_not_block(block: nn.Module) -> str | None:
    if type(block) is not Block or block.residual != "pre" or block.dropout.p:
        return "the kernel knows pre-norm blocks without dropout"
    attn, ffn, norms = block.attn, block.ffn, (block.attn_norm, block.ffn_norm)
    if type(attn) is not Attention or any(
            part is not None for part in (attn.q_norm, attn.mask_rule, attn.bias_rule, attn.reading)):
        return "the kernel knows causal attention with learned or rotary positions, without windows or norms on queries"
    if attn.rope_amplitude != 1.0:
        return "the kernel knows no rotation that scales (YaRN, LongRoPE)"
    if type(ffn) not in (MLP, GLU) or ffn.activation not in KINDS:
        return f"the kernel knows MLPs and GLUs with {', '.join(KINDS)}"
    if not all(type(norm) in (LayerNorm, RMSNorm) for norm in norms):
        return "the kernel knows LayerNorm and RMSNorm"
    layers = [module for module in block.modules() if not list(module.children())]
    if not all(type(layer) in (nn.Linear, LayerNorm, RMSNorm, nn.Dropout) for layer in layers):
        return "the kernel knows plain linear layers, without anything beside them"
    sizes = [size for layer in layers if isinstance(layer, nn.Linear) for size in layer.weight.shape]
    head_dim = attn.q_proj.out_features // attn.n_heads
    if any(size % PANEL for size in (*sizes, head_dim)):
        return f"the kernel wants widths, and features of a head, that are multiples of {PANEL}"
    if not all(parameter.requires_grad for parameter in block.parameters()):
        return "the kernel trains a block as a whole, and a part of this one is frozen"
    return None
