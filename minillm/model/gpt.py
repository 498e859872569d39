r"""The GPT: token vectors, a stack of blocks, and logits for the next token."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config import ModelConfig
from minillm.model import init
from minillm.model.builders import build_block, build_final_norm, build_head, build_norm, build_position_bias
from minillm.model.stack import (
    bind_blocks,
    build_pos_emb,
    embed_tokens,
    position_rule,
    refuse_cache_of_changing_angles,
    scaled_head,
)
from minillm.model.token_positions import resolve_positions


def gpt_forward(
    token_ids: Int[Tensor, "B T"],
    positions: Int[Tensor, "*b T"],
    tok_emb: Callable[[Tensor], Tensor],
    pos_emb: Callable[[Tensor], Tensor] | None,
    blocks: Sequence[Callable[[Tensor], Tensor]],
    final_norm: Callable[[Tensor], Tensor],
    lm_head: Callable[[Tensor], Tensor],
) -> Float[Tensor, "B T V"]:
    r"""The whole model in four steps: look up vectors, run the blocks, normalize, project to the vocabulary.

    Args:
        token_ids: (B, T), int64.
        positions: (T,) or (B, T), int64.
        tok_emb: token ids -> (B, T, D).
        pos_emb: positions -> (T, D) or (B, T, D), added; None where positions enter elsewhere (RoPE, ALiBi).
        blocks: functions (B, T, D) -> (B, T, D), in order.
        final_norm: the norm after the last block.
        lm_head: (B, T, D) -> (B, T, V).
    Returns: logits, (B, T, V), float; those at position t are about the token at t + 1.
    Source: Radford et al. 2019 (GPT-2), section 2.3.
    Lesson: 07.
    """
    x = tok_emb(token_ids)
    if pos_emb is not None:
        x = x + pos_emb(positions)
    for block in blocks:
        x = block(x)
    return lm_head(final_norm(x))


class GPT(nn.Module):
    r"""A decoder-only language model, built from a `ModelConfig`.

    Args:
        config: sizes and choices.
        generator: source of randomness for the fresh weights; None means torch's global one.
    Source: Radford et al. 2019 (GPT-2); with `Rope`, `Glu` and RMSNorm it is LLaMA, Touvron et al. 2023.
    Lesson: 07.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.d_model)
        self.pos_emb = build_pos_emb(config)
        self.emb_norm = build_norm(config) if config.ends.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        position_bias = build_position_bias(config)
        self.blocks = nn.ModuleList(build_block(config, layer, position_bias) for layer in range(config.n_layers))
        self.final_norm = build_final_norm(config)
        self.lm_head = build_head(config, self.tok_emb)
        init.fill_fresh(self, config, generator)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B T V"]:
        r"""Logits for the next token at every position.

        Args:
            token_ids: (B, T), int64.
            padding_mask: (B, cached + T), bool, True = real token; None = all real.
            positions: (T,) or (B, T), int64; None = cumsum(padding_mask) - 1, or a plain count from the cached length.
            cache: from `new_cache`; the new tokens are appended.
        Returns: (B, T, V), float.
        Raises:
            ValueError: if the arguments do not fit each other or the model.
        """
        return self._run(token_ids, padding_mask, positions, cache, scaled_head(self.config, self.lm_head))

    def hidden(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B T D"]:
        r"""The residual stream after the final norm; logits = lm_head(hidden).

        Args:
            token_ids: as in forward.
            padding_mask: as in forward.
            positions: as in forward.
            cache: as in forward.
        Returns: (B, T, D), float.
        """
        return self._run(token_ids, padding_mask, positions, cache, lambda x: x)

    def last_logits(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B V"]:
        r"""Logits after the last token alone, which is all that writing on needs: the head is a large matrix.

        Args:
            token_ids: as in forward.
            padding_mask: as in forward.
            positions: as in forward.
            cache: as in forward.
        Returns: (B, V), float.
        """
        last = self.hidden(token_ids, padding_mask, positions, cache)[:, -1]
        return scaled_head(self.config, self.lm_head)(last)

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> list[Any]:
        r"""One empty contiguous cache a block, of the kind that the block's attention takes.

        Args:
            batch_size: B.
            capacity: tokens a sequence.
            dtype: of the stored keys and values; None means the model's own.
        Returns: a list of layer caches, to be passed as `cache`.
        Raises:
            ValueError: if the model's angles depend on the length seen, so that it can't be cached.
        """
        refuse_cache_of_changing_angles(self.config, [])
        return [block.attn.new_cache(batch_size, capacity, dtype) for block in self.blocks]

    def _run(self, token_ids, padding_mask, positions, cache, head) -> Tensor:
        positions = resolve_positions(token_ids, self.config.max_seq_len, padding_mask, positions, cache)
        pos_emb = position_rule(self.config, self.pos_emb, self.tok_emb)
        blocks = bind_blocks(self.config, self.blocks, positions, cache, lambda x: self.dropout(self.emb_norm(x)))
        tok_emb = embed_tokens(self.config, self.tok_emb)
        return gpt_forward(token_ids, positions, tok_emb, pos_emb, blocks, self.final_norm, head)
