r"""The GPT: token vectors, a stack of blocks, and logits for the next token."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config import Learned, ModelConfig, Rope, Sinusoidal
from minillm.layers import recorder, rope
from minillm.layers.cache import KVCache
from minillm.layers.sinusoidal import sinusoidal
from minillm.model import init
from minillm.model.builders import build_block, build_norm
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
        learned = isinstance(config.position, Learned)
        self.pos_emb = nn.Embedding(config.max_seq_len, config.d_model) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(build_block(config) for _ in range(config.n_layers))
        self.final_norm = build_norm(config) if config.residual == "pre" else nn.Identity()
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.tok_emb.weight
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                i = config.init
                parameter.copy_(init.init_weights(
                    name, parameter.shape, config.n_layers, embedding_std=i.embedding_std, linear_std=i.linear_std,
                    residual=i.residual, generator=generator))

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
        return self._run(token_ids, padding_mask, positions, cache, self.lm_head)

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

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> list[KVCache]:
        r"""One empty contiguous cache a block.

        Args:
            batch_size: B.
            capacity: tokens a sequence.
            dtype: of the stored keys and values; None means the model's own.
        Returns: a list of `KVCache`, to be passed as `cache`.
        """
        c, weight = self.config, self.tok_emb.weight
        return [
            KVCache(batch_size, c.n_kv_heads, capacity, c.head_dim, dtype or weight.dtype, weight.device)
            for _ in self.blocks
        ]

    def _run(self, token_ids, padding_mask, positions, cache, head) -> Tensor:
        positions = resolve_positions(token_ids, self.config.max_seq_len, padding_mask, positions, cache)
        position, head_dim = self.config.position, self.config.head_dim
        angles = rope.rope_angles(positions, head_dim, position.base) if isinstance(position, Rope) else None
        caches = [None] * len(self.blocks) if cache is None else cache
        blocks = [partial(self._block, i, positions, angles, layer_cache) for i, layer_cache in enumerate(caches)]
        return gpt_forward(token_ids, positions, self.tok_emb, self._position_rule(), blocks, self.final_norm, head)

    def _position_rule(self) -> Callable[[Tensor], Tensor] | None:
        if self.pos_emb is not None:
            return lambda positions: self.pos_emb(positions.clamp(min=0))
        if isinstance(self.config.position, Sinusoidal):
            weight, base = self.tok_emb.weight, self.config.position.base
            return lambda positions: sinusoidal(positions, weight.shape[1], base).to(weight.dtype)
        return None

    def _block(self, index: int, positions: Tensor, angles: Tensor | None, layer_cache: Any, x: Tensor) -> Tensor:
        if index == 0:
            x = self.dropout(x)
            recorder.report("residual", x)
        x = self.blocks[index](x, positions, angles, layer_cache)
        recorder.report("residual", x)
        return x
