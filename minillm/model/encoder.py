r"""The encoder: every token sees every token, and out comes one vector for each."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config import Alibi, ModelConfig
from minillm.layers import masks
from minillm.model import gpt, init
from minillm.model.builders import build_block, build_final_norm, build_norm, build_position_bias
from minillm.model.stack import bind_blocks, build_pos_emb, embed_tokens, position_rule
from minillm.model.token_positions import resolve_positions


class Encoder(nn.Module):
    r"""A stack of the same blocks as the GPT's, under a mask that hides nothing but padding.

    Args:
        config: sizes and choices; an encoder has no lm_head, and `attention.window` is not for it.
        n_token_types: trained vectors added by segment (BERT: first or second sentence); 0 = none.
        pooler: whether to have the layer of `pooled`, which makes one vector of the whole input.
        tok_emb: a token embedding to share with another model; None = its own.
        generator: source of randomness for the fresh weights; None means torch's global one.
    Raises:
        ValueError: if the configuration asks for a window or for ALiBi, which look back only.
    Source: Vaswani et al. 2017, section 3.1; Devlin et al. 2019 (BERT), section 3.
    Lesson: 07.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_token_types: int = 0,
        pooler: bool = False,
        tok_emb: nn.Embedding | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        window = getattr(config.attention, "window", None)
        if window is not None:
            raise ValueError(f"attention.window={window!r}: an encoder sees everything, use None")
        if isinstance(config.position, Alibi):
            raise ValueError("position=Alibi(): its penalty looks back only, use another position for an encoder")
        self.config = config
        self.tok_emb = tok_emb or nn.Embedding(config.vocab_size, config.d_model)
        self.pos_emb = build_pos_emb(config)
        self.type_emb = nn.Embedding(n_token_types, config.d_model) if n_token_types else None
        self.emb_norm = build_norm(config) if config.ends.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        bias = build_position_bias(config, bidirectional=True)
        self.blocks = nn.ModuleList(
            build_block(config, layer, bias, _sees_all) for layer in range(config.n_layers))
        self.final_norm = build_final_norm(config)
        self.pooler = nn.Linear(config.d_model, config.d_model) if pooler else None
        init.fill_fresh(self, config, generator)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        r"""One vector for each token, informed by the whole input.

        Args:
            token_ids: (B, T), int64.
            padding_mask: (B, T), bool, True = real token; None = all real.
            positions: (T,) or (B, T), int64; None = cumsum(padding_mask) - 1.
            token_types: (B, T), int64, the segment of each token; None = all of segment 0.
        Returns: (B, T, D), float, after the final norm; what stands at padding means nothing.
        Raises:
            ValueError: if the arguments do not fit each other or the model.
        """
        positions = resolve_positions(token_ids, self.config.max_seq_len, padding_mask, positions)
        types = self._types(token_ids, token_types)

        def enter(x: Tensor) -> Tensor:
            return self.dropout(self.emb_norm(x + types))

        blocks = bind_blocks(self.config, self.blocks, positions, None, enter)
        pos_emb = position_rule(self.config, self.pos_emb, self.tok_emb)
        tok_emb = embed_tokens(self.config, self.tok_emb)
        return gpt.gpt_forward(token_ids, positions, tok_emb, pos_emb, blocks, self.final_norm, nn.Identity())

    def pooled(self, vectors: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        r"""One vector for the whole input: the first token's, transformed.

        Args:
            vectors: what the encoder gives, (B, T, D); the first column must be no padding.
        Returns: (B, D), in -1 .. 1.
        Raises:
            ValueError: if the encoder was built without it.
        Source: Devlin et al. 2019, BERT, section 3.1 (task 2): the vector C of the symbol [CLS].
        """
        if self.pooler is None:
            raise ValueError("pooled: this encoder has no pooler; build it with pooler=True")
        return self.pooler(vectors[:, 0]).tanh()

    def _types(self, token_ids: Tensor, token_types: Tensor | None) -> Any:
        if self.type_emb is None:
            if token_types is not None:
                raise ValueError("token_types: this encoder has none; build it with n_token_types")
            return 0.0
        return self.type_emb(torch.zeros_like(token_ids) if token_types is None else token_types)


def _sees_all(q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    return masks.bidirectional_mask(q_positions, kv_positions)  # looked up anew at each call
