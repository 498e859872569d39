r"""The fast path: one new token through a LLaMA-shaped model, in plain PyTorch, with as few operations as it takes.

A step of one token does one multiplication for each weight. So it should take as long as reading the weights once; what
the model's own forward takes beyond that is overhead, and each line here removes some of it:

- queries, keys and values are one product, and gate and up another (`matrices.join`);
- each product is done by the quickest way that this machine has for one row (`products.quickest_product`);
- no masks: there is one new token, and it sees all others. The query heads that share a key/value head go in as if
  they were that many queries, so keys and values are not repeated;
- RoPE is one small product: a table gives the position's matrix, the same for all layers and heads;
- RMSNorm is a length and two products: its eps rides along as one more feature of the residual stream;
- keys and values are written into the cache's memory, and additions are made in place.

Nothing is approximated. What a step of one token for each row does not cover goes through the model itself: prompts,
padding, other caches, a recorder that listens, the plain path, gradients.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config import ModelConfig
from minillm.inference.fast import matrices, products
from minillm.inference.fast.shape import slow_part
from minillm.inference.fast.ways import Product
from minillm.layers import paths, recorder
from minillm.layers.cache import KVCache
from minillm.layers.norms import RMSNorm
from minillm.model.gpt import GPT
from minillm.model.rotation import model_angles

SEVERAL = 8  # rows: what suits so many is taken for any number above 1


@dataclass(frozen=True, eq=False)
class FastBlock:
    r"""What a step needs of one block.

    Args:
        attn_norm: weights of the norm before attention, (D,), times sqrt(D).
        qkv: (B, D) -> queries, keys and values side by side.
        out: heads side by side -> (B, D).
        ffn_norm: weights of the norm before the FFN, (D,), times sqrt(D).
        gate_up: (B, D) -> gate and up side by side.
        act: bends the gate.
        down: (B, F) -> (B, D).
    Lesson: 11.
    """

    attn_norm: Tensor
    qkv: Product
    out: Product
    ffn_norm: Tensor
    gate_up: Product
    act: Callable[[Tensor], Tensor]
    down: Product


@dataclass(frozen=True, eq=False)
class FastParts:
    r"""A whole model, with products for one row or for several.

    Args:
        blocks: in order.
        final_norm: weights of the last norm, (D,), times sqrt(D).
        head: (B, D) -> (B, V).
    Lesson: 11.
    """

    blocks: tuple[FastBlock, ...]
    final_norm: Tensor
    head: Product


class FastDecoder:
    r"""A model that decodes faster; called and cached like a GPT, and equal to it but for rounding.

    It holds its own copies of most weights, in the order that the quickest products want them: for one row at once,
    for several rows when they first come. They are as the model's were then: train first.

    Args:
        model: a GPT of LLaMA's shape in eval mode on the CPU, in any floating type, or quantized.
    Raises:
        ValueError: if the model has a part that the fast path does not know; see `shape.slow_part`.
    Source: Pope et al. 2022, Efficiently Scaling Transformer Inference, for what bounds a step; Shazeer
        2019, Fast Transformer Decoding, section 2.4.
    Lesson: 11.
    """

    def __init__(self, model: GPT):
        reason = slow_part(model)
        if reason is not None:
            raise ValueError(f"model: {reason}; use the model itself")
        self.model = model
        self.config: ModelConfig = model.config
        self._count = torch.arange(model.config.max_seq_len)
        with torch.no_grad():
            self._turns = rope_table(model)
            self._parts = {1: fast_parts(model, 1)}

    def parameters(self) -> Iterator[nn.Parameter]:
        r"""The model's own."""
        return self.model.parameters()

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> list[KVCache]:
        r"""One empty contiguous cache a block.

        Args:
            batch_size: B.
            capacity: tokens a sequence.
            dtype: of the stored keys and values; None = float32, the type of the fast path's activations.
        Returns: a list of layer caches, which the model itself takes as well.
        """
        return self.model.new_cache(batch_size, capacity, dtype or torch.float32)

    def __call__(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B T V"]:
        r"""Logits for the next token at every position.

        Args:
            token_ids: (B, T), int64; T = 1 is the fast way.
            padding_mask: as a GPT's.
            positions: as a GPT's.
            cache: from `new_cache`, the model's or this one's; the new tokens are appended.
        Returns: (B, T, V), float32.
        Raises:
            ValueError: as the model itself.
        """
        usual = padding_mask is None and positions is None and cache is not None
        if usual and is_plain_step(self.model, token_ids, cache, self._count):
            return self._step(token_ids[:, 0], cache)[:, None]
        return self.model(token_ids, padding_mask, positions, cache).float()

    def last_logits(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B V"]:
        r"""Logits after the last token alone, by the model itself: for prompts.

        Args:
            token_ids: (B, T), int64.
            padding_mask: as a GPT's.
            positions: as a GPT's.
            cache: as a GPT's.
        Returns: (B, V), float32.
        """
        return self.model.last_logits(token_ids, padding_mask, positions, cache).float()

    def _step(self, token_ids: Int[Tensor, "B"], cache: Sequence[KVCache]) -> Float[Tensor, "B V"]:
        c, n_rows, position = self.config, len(token_ids), cache[0].length
        parts, turn, n_new = self._parts_for(n_rows), self._turns(position), position + 1
        n_turned, group = c.n_heads + c.n_kv_heads, c.n_heads // c.n_kv_heads
        stream = torch.empty(n_rows, c.d_model + 1)  # the residual stream, and one more feature that stands for eps
        stream[:, -1] = math.sqrt(c.d_model * c.norm.eps)
        x = stream[:, :-1]
        x.copy_(self.model.tok_emb(token_ids)).mul_(c.ends.embedding_scale)
        for block, layer_cache in zip(parts.blocks, cache, strict=True):
            k_memory, v_memory, stored_positions = layer_cache.memory()
            qkv = block.qkv(normalized(x, stream, block.attn_norm)).view(n_rows, -1, c.head_dim)  # a row for each head
            turned = (qkv.narrow(1, 0, n_turned).reshape(-1, c.head_dim) @ turn).view(n_rows, n_turned, c.head_dim)
            k_memory.select(2, position).copy_(turned.narrow(1, c.n_heads, c.n_kv_heads))
            v_memory.select(2, position).copy_(qkv.narrow(1, n_turned, c.n_kv_heads))
            stored_positions.select(1, position).fill_(position)
            layer_cache.length = n_new
            q = turned.narrow(1, 0, c.n_heads).reshape(n_rows, c.n_kv_heads, group, c.head_dim)
            k, v = k_memory.narrow(2, 0, n_new), v_memory.narrow(2, 0, n_new)
            heads = F.scaled_dot_product_attention(q.to(k.dtype), k, v, scale=c.attention.scale)
            x.add_(block.out(heads.reshape(n_rows, -1).float()))
            gate_up = block.gate_up(normalized(x, stream, block.ffn_norm))
            gate, up = gate_up.narrow(1, 0, c.ffn.d_ff), gate_up.narrow(1, c.ffn.d_ff, c.ffn.d_ff)
            x.add_(block.down(block.act(gate).mul_(up)))
        logits = parts.head(normalized(x, stream, parts.final_norm))
        return logits if c.ends.logit_scale == 1.0 else logits.mul_(c.ends.logit_scale)

    def _parts_for(self, n_rows: int) -> FastParts:
        n_rows = 1 if n_rows == 1 else SEVERAL
        if n_rows not in self._parts:
            self._parts[n_rows] = fast_parts(self.model, n_rows)
        return self._parts[n_rows]


def is_plain_step(model: GPT, token_ids: Int[Tensor, "B T"], cache: Sequence[Any], count: Int[Tensor, "n"]) -> bool:
    r"""Whether this is a step of one token a row, after texts without padding, with nobody looking on.

    Args:
        model: whose step it is.
        token_ids: (B, T), int64.
        cache: layer caches of any kind.
        count: 0, 1, 2, ... up to the model's max_seq_len.
    Returns: True if a fast step may take the place of the model's own.
    Lesson: 11.
    """
    if token_ids.shape[1] != 1 or torch.is_grad_enabled() or recorder.recording() or not paths.use_fused():
        return False
    if len(cache) != model.config.n_layers or any(type(each) is not KVCache for each in cache):
        return False
    n_past, k, _, stored = cache[0].length, *cache[0].memory()
    if n_past >= min(cache[0].capacity, model.config.max_seq_len) or len(k) != len(token_ids) or not k.is_cpu:
        return False
    if model.training and model.config.dropout > 0:
        return False
    return torch.equal(stored[:, :n_past], count[:n_past].expand(len(stored), n_past))


def normalized(x: Float[Tensor, "B D"], stream: Float[Tensor, "B D1"], weight: Float[Tensor, "D"]) -> Tensor:
    r"""RMSNorm in three operations: x * weight / length of the stream.

    The root of the mean square + eps is the length of (x, sqrt(D * eps)) over sqrt(D); the weight holds that sqrt(D).

    Args:
        x: the residual stream, (B, D), float32.
        stream: x with sqrt(D * eps) as one more feature, (B, D + 1).
        weight: of the norm, times sqrt(D).
    Returns: (B, D), float32, a new tensor.
    Source: Zhang and Sennrich 2019, Root Mean Square Layer Normalization, equation 4.
    Lesson: 11.
    """
    return (x * weight).div_(torch.linalg.vector_norm(stream, dim=-1, keepdim=True))


def rope_table(model: GPT) -> Callable[[int], Float[Tensor, "Dh Dh"]]:
    r"""RoPE as a matrix for each position: a head's row of features times it is the head turned.

    Args:
        model: of LLaMA's shape.
    Returns: position -> (Dh, Dh), float32.
    Source: Su et al. 2021, RoFormer, equation 15.
    Lesson: 11.
    """
    c = model.config
    angles = model_angles(c, torch.arange(c.max_seq_len))
    half, amplitude = angles.shape[1], model.blocks[0].attn.rope_amplitude
    cos, sin = angles.cos() * amplitude, angles.sin() * amplitude
    still = torch.ones(c.head_dim - 2 * half)  # features that are not turned
    diagonals = torch.cat([cos, cos, still.expand(len(cos), -1)], dim=1)

    def turn(position: int) -> Tensor:
        matrix = torch.zeros(c.head_dim, c.head_dim)
        matrix.diagonal().copy_(diagonals[position])
        matrix.diagonal(half)[:half] = sin[position]
        matrix.diagonal(-half)[:half] = -sin[position]
        return matrix

    return turn


def fast_parts(model: GPT, n_rows: int) -> FastParts:
    r"""A model's weights as the quickest products want them.

    Args:
        model: of LLaMA's shape.
        n_rows: for so many rows; others are right too.
    Returns: its parts.
    Lesson: 11.
    """
    def quickest(*layers: Any) -> Product:
        return products.quickest_product(layers[0] if len(layers) == 1 else matrices.join(layers), n_rows)

    def scaled(norm: RMSNorm) -> Tensor:
        return norm.weight.detach().float() * math.sqrt(model.config.d_model)

    with torch.no_grad():
        blocks = tuple(
            FastBlock(scaled(block.attn_norm), quickest(attn.q_proj, attn.k_proj, attn.v_proj), quickest(attn.o_proj),
                      scaled(block.ffn_norm), quickest(ffn.gate_proj, ffn.up_proj), ffn.act, quickest(ffn.down_proj))
            for block in model.blocks for attn, ffn in [(block.attn, block.ffn)])
        return FastParts(blocks, scaled(model.final_norm), quickest(model.lm_head))
