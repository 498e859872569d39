r"""Encoder and decoder: one stack reads the source, another writes the target and looks back at what was read.

    token_ids -> encoder -> memory (B, Ts, D) -------+
                                                     v
    decoder_token_ids -> [self-attention, cross-attention, FFN] x L -> logits
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config import Mla, ModelConfig
from minillm.layers import residual as branches
from minillm.layers.cross import CrossAttention
from minillm.model import gpt, init
from minillm.model.builders import (
    build_attention,
    build_ffn,
    build_final_norm,
    build_head,
    build_norm,
    build_position_bias,
)
from minillm.model.encoder import Encoder
from minillm.model.stack import bind_blocks, build_pos_emb, embed_tokens, position_rule, scaled_head
from minillm.model.token_positions import resolve_positions


@dataclass(frozen=True, eq=False)
class Memory:
    r"""What a decoder needs of a source that has been read.

    Args:
        remembered: keys and values for each block's cross-attention, (B, H, Ts, Dh) each.
        positions: of the source, (Ts,) or (B, Ts), int64; -1 = padding.
    Lesson: 07.
    """

    remembered: tuple[tuple[Tensor, Tensor], ...]
    positions: Tensor


class CrossBlock(nn.Module):
    r"""A decoder's block with three branches: self-attention, cross-attention, FFN.

    Args:
        config: the model's configuration.
        layer: index of the block.
        position_bias: trained bias of the self-attention, shared by all blocks; None = none.
    Source: Vaswani et al. 2017, section 3.1.
    Lesson: 07.
    """

    def __init__(self, config: ModelConfig, layer: int = 0, position_bias: nn.Module | None = None):
        super().__init__()
        c = config
        self.attn_norm, self.cross_norm, self.ffn_norm = (build_norm(c) for _ in range(3))
        self.attn = build_attention(c, layer, position_bias)
        self.cross = CrossAttention(
            c.d_model, c.d_model, c.n_heads, c.head_dim, qkv_bias=c.attention.qkv_bias, o_bias=c.attention.o_bias,
            scale=c.attention.scale)
        self.ffn = build_ffn(c)
        self.dropout = nn.Dropout(c.dropout)
        self.residual = c.residual

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        positions: Int[Tensor, "*b T"],
        angles: Float[Tensor, "*b T half"] | None = None,
        cache: Any = None,
        remembered: tuple[Tensor, Tensor] | None = None,
        memory_positions: Int[Tensor, "*bs Ts"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        r"""Read from what was written, then from the source, then think.

        Args:
            x: the residual stream, (B, T, D), float.
            positions: (T,) or (B, T), int; -1 = padding.
            angles: RoPE's; None = no rotation.
            cache: layer cache of the self-attention; None = no cache.
            remembered: the source's keys and values for this block.
            memory_positions: positions of the source.
        Returns: (B, T, D), dtype of x.
        """
        steps: tuple[Callable[[Tensor], Tensor], ...] = (
            lambda h: self.dropout(self.attn(h, positions, angles, cache)),
            lambda h: self.dropout(self.cross(h, positions, remembered, memory_positions)),
            lambda h: self.dropout(self.ffn(h)),
        )
        pairs = list(zip((self.attn_norm, self.cross_norm, self.ffn_norm), steps, strict=True))
        if self.residual == "pre":
            return branches.pre_norm_block(x, pairs)
        for norm, step in pairs:
            x = branches.post_norm_branch(x, norm, step)
        return x


class EncoderDecoder(nn.Module):
    r"""The model of the first Transformer, and T5: both stacks share one token embedding.

    Args:
        config: sizes and choices, for both stacks.
        n_decoder_layers: blocks of the decoder; None = as many as the encoder has.
        generator: source of randomness for the fresh weights; None means torch's global one.
    Raises:
        ValueError: if residual is not `pre` or `post`, or attention is `Mla`.
    Source: Vaswani et al. 2017, section 3; Raffel et al. 2020 (T5), section 2.1.
    Lesson: 07.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_decoder_layers: int | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if config.residual not in ("pre", "post"):
            raise ValueError(f"residual={config.residual!r}: an encoder-decoder knows 'pre' and 'post'")
        if isinstance(config.attention, Mla):
            raise ValueError("attention=Mla(...): an encoder-decoder takes AttentionOptions(...)")
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config, tok_emb=self.tok_emb, generator=generator)
        self.pos_emb = build_pos_emb(config)
        self.dropout = nn.Dropout(config.dropout)
        bias = build_position_bias(config)
        self.blocks = nn.ModuleList(
            CrossBlock(config, layer, bias) for layer in range(n_decoder_layers or config.n_layers))
        self.final_norm = build_final_norm(config)
        self.lm_head = build_head(config, self.tok_emb)
        init.fill_fresh(self, config, generator)

    def forward(
        self,
        token_ids: Int[Tensor, "B Ts"],
        decoder_token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Ts"] | None = None,
        decoder_padding_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        r"""Logits for the next token of the target at each of its positions, all at once.

        Args:
            token_ids: the source, (B, Ts), int64.
            decoder_token_ids: the target so far, (B, T), int64; it begins with a start token.
            padding_mask: of the source, (B, Ts), bool, True = real token; None = all real.
            decoder_padding_mask: of the target, (B, T); None = all real.
        Returns: (B, T, V), float.
        """
        return self.decode(decoder_token_ids, self.read(token_ids, padding_mask), decoder_padding_mask)

    def read(self, token_ids: Int[Tensor, "B Ts"], padding_mask: Bool[Tensor, "B Ts"] | None = None) -> Memory:
        r"""Run the encoder once, and make of its vectors the keys and values that every block of the decoder reads.

        Args:
            token_ids: the source, (B, Ts), int64.
            padding_mask: (B, Ts), bool, True = real token; None = all real.
        Returns: the `Memory`, good for any number of decoding steps.
        """
        vectors = self.encoder(token_ids, padding_mask)
        positions = resolve_positions(token_ids, self.config.max_seq_len, padding_mask)
        return Memory(tuple(block.cross.remember(vectors) for block in self.blocks), positions)

    def decode(
        self,
        decoder_token_ids: Int[Tensor, "B T"],
        memory: Memory,
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B T V"]:
        r"""Run the decoder over new tokens.

        Args:
            decoder_token_ids: (B, T), int64, the tokens after those in the cache.
            memory: from `read`.
            padding_mask: of the target, (B, cached + T), bool; None = all real.
            cache: from `new_cache`, for self-attention; None = decoder_token_ids is the whole target.
        Returns: (B, T, V), float.
        """
        config = self.config
        positions = resolve_positions(decoder_token_ids, config.max_seq_len, padding_mask, cache=cache)
        bound = [partial(block, remembered=kv, memory_positions=memory.positions)
                 for block, kv in zip(self.blocks, memory.remembered, strict=True)]
        blocks = bind_blocks(config, bound, positions, cache, self.dropout)
        pos_emb = position_rule(config, self.pos_emb, self.tok_emb)
        tok_emb = embed_tokens(config, self.tok_emb)
        return gpt.gpt_forward(decoder_token_ids, positions, tok_emb, pos_emb, blocks, self.final_norm,
                               scaled_head(config, self.lm_head))

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> list[Any]:
        r"""One empty cache a block, for the decoder's self-attention.

        Args:
            batch_size: B.
            capacity: tokens of the target.
            dtype: of the stored keys and values; None means the model's own.
        Returns: a list of layer caches, to be passed to `decode`.
        """
        return [block.attn.new_cache(batch_size, capacity, dtype) for block in self.blocks]
