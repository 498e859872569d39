r"""XLNet: a text predicted in any order, by two streams through the same blocks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.config import Learned, ModelConfig
from minillm.model import init
from minillm.model.builders import build_block, build_head, build_norm
from minillm.model.stack import embed_tokens, scaled_head


class SharedKeys:
    r"""A layer cache for two streams: the first that appends writes, and every stream reads that.

    Source: Yang et al. 2019, XLNet, section 2.3: K and V of both streams come from h.
    Lesson: 07.
    """

    def __init__(self) -> None:
        self._written: tuple[Tensor, Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Keep what comes first; give back what was kept.

        Args:
            k: keys, (B, Hk, T, Dh).
            v: values, the same shape.
            positions: here the ranks, (T,) or (B, T).
        Returns: the three that were given at the first call.
        """
        if self._written is None:
            self._written = (k, v, positions)
        return self._written


class PermutationLM(nn.Module):
    r"""Predicts the tokens of a text in any order, each from those that come before it in that order.

    Two streams run through the same blocks. Content knows place and token, and sees itself. Query knows only the place
    that it has to predict; it reads from content, without itself. Who sees whom is the causal rule on ranks in the
    order of prediction; the text itself is not shuffled, and places are told by a trained vector.

    Args:
        config: sizes and choices; `position` must be `Learned()` (XLNet takes Transformer-XL's).
        generator: source of randomness for the fresh weights; None means torch's global one.
    Raises:
        ValueError: if position is not `Learned()`.
    Source: Yang et al. 2019, XLNet, section 2.3, equations for g and h.
    Lesson: 07.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None):
        super().__init__()
        if config.position != Learned():
            raise ValueError(f"position={config.position!r}: this model adds a trained vector to both streams, use "
                             "Learned()")
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.d_model)
        self.pos_emb = nn.Embedding(config.max_seq_len, config.d_model)
        self.query_emb = nn.Parameter(torch.empty(config.d_model))
        self.blocks = nn.ModuleList(build_block(config, layer) for layer in range(config.n_layers))
        self.final_norm = build_norm(config)
        self.lm_head = build_head(config, self.tok_emb)
        init.fill_fresh(self, config, generator)

    def forward(self, token_ids: Int[Tensor, "B T"], ranks: Int[Tensor, "*b T"]) -> Float[Tensor, "B T V"]:
        r"""Logits for the token at each position itself, from the tokens of lower rank.

        Args:
            token_ids: (B, T), int64.
            ranks: when each position is predicted, (T,) or (B, T), int64, from 0; -1 = padding.
        Returns: (B, T, V), float; the position of rank 0 is predicted from nothing.
        """
        query, _ = self.streams(token_ids, ranks)
        return scaled_head(self.config, self.lm_head)(self.final_norm(query))

    def streams(
        self, token_ids: Int[Tensor, "B T"], ranks: Int[Tensor, "*b T"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        r"""Both streams after the last block.

        Args:
            token_ids: (B, T), int64.
            ranks: (T,) or (B, T), int64.
        Returns: query and content, each (B, T, D), float.
        """
        place = self.pos_emb(torch.arange(token_ids.shape[1], device=token_ids.device))
        content = embed_tokens(self.config, self.tok_emb)(token_ids) + place
        query = (self.query_emb + place).expand_as(content)
        before_itself = torch.where(ranks < 0, -1, ranks - 1)  # the first one has rank -1 then: it sees nothing
        for block in self.blocks:
            keys = SharedKeys()
            new_content = block(content, ranks, cache=keys)
            query = block(query, before_itself, cache=keys)
            content = new_content
        return query, content
