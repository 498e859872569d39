r"""The same functions as the lessons build, each as one or two kernels of torch: same arguments, same results, faster.

`paths.use_fused()` says whether a part may take them; a test compares every pair.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def fused_sdpa(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    mask: Bool[Tensor, "..."] | None = None,
    attn_bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch Tq Dv"]:
    r"""`sdpa.sdpa` by torch's fused kernel, or, for training on the CPU, by three plain ones.

    On a CPU the fused kernel's backward pass is several times slower than matmul, softmax, matmul. The first matmul
    scales and adds the mask (0 or -inf) on its way: the scores are large, and each pass over them counts.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend.
        attn_bias: broadcasts to (..., Tq, Tk), added to the scaled scores.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
    Returns: (..., Tq, Dv), dtype of q; zeros for a query that may attend nowhere.
    Source: PyTorch documentation, scaled_dot_product_attention.
    Lesson: 02.
    """
    empty = None
    if mask is not None:
        # A query without a single key would be nan in the softmax and in every gradient: let it look, then zero it.
        empty = ~mask.any(dim=-1, keepdim=True)
        mask = mask | empty
    if attn_bias is not None:
        attn_bias = attn_bias.to(q.dtype)
        if mask is not None:
            attn_bias = attn_bias.masked_fill(~mask, float("-inf"))
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        out = F.scaled_dot_product_attention(q, k, v, mask if attn_bias is None else attn_bias, scale=scale)
    else:
        if attn_bias is None and mask is not None:
            attn_bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, float("-inf"))
        out = _three_kernels(q, k, v, attn_bias, q.shape[-1] ** -0.5 if scale is None else scale)
        if empty is not None and not torch.compiler.is_compiling() and not empty.any():
            return out  # as nearly always: a pass less (but a compiled function has no branches, and fuses the pass)
    return out if empty is None else out.masked_fill(empty, 0.0)


def _three_kernels(q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor | None, scale: float) -> Tensor:
    batch, (q_len, kv_len) = q.shape[:-2], (q.shape[-2], k.shape[-2])
    q, k, v = (part.reshape(-1, *part.shape[-2:]) for part in (q, k, v))
    if attn_bias is None:
        attn_bias = q.new_zeros(())
    elif attn_bias.dim() > 2:
        attn_bias = attn_bias.expand(*batch, q_len, kv_len).reshape(-1, q_len, kv_len)
    weights = torch.baddbmm(attn_bias, q, k.transpose(-2, -1), alpha=scale).softmax(dim=-1)
    return (weights @ v).reshape(*batch, q_len, v.shape[-1])


def fused_layer_norm(
    x: Float[Tensor, "*batch D"],
    weight: Float[Tensor, "D"],
    bias: Float[Tensor, "D"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*batch D"]:
    r"""`norms.layer_norm` by torch's kernel.

    Args:
        x: (..., D), float.
        weight: (D,).
        bias: (D,), or None.
        eps: added to the variance, inside the root.
    Returns: (..., D), dtype of x.
    Source: PyTorch documentation, layer_norm.
    Lesson: 05.
    """
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def fused_rms_norm(
    x: Float[Tensor, "*batch D"], weight: Float[Tensor, "D"], eps: float = 1e-6
) -> Float[Tensor, "*batch D"]:
    r"""`norms.rms_norm` by torch's own function.

    Args:
        x: (..., D), float.
        weight: (D,).
        eps: added to the mean square, inside the root.
    Returns: (..., D), dtype of x.
    Source: PyTorch documentation, rms_norm.
    Lesson: 05.
    """
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def fused_cross_entropy(logits: Float[Tensor, "*batch V"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, ""]:
    r"""`loss.cross_entropy` by torch's kernel.

    Args:
        logits: (..., V), float.
        targets: (...), int64; -100 = no loss here.
    Returns: mean over the counted targets, a scalar, nats.
    Source: PyTorch documentation, cross_entropy.
    Lesson: 07.
    """
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-100)
