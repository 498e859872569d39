r"""GLM: the GPT's blocks, a prefix that sees itself both ways, and two positions for every token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.config import Learned, ModelConfig
from minillm.model import gpt, init
from minillm.model.builders import build_block, build_head, build_norm
from minillm.model.stack import bind_blocks, embed_tokens, scaled_head


class BlankFiller(nn.Module):
    r"""A decoder that fills in blanks: it reads a text with blanks in both directions and writes what was there.

    Who sees whom is the causal rule on `order`, in which the whole text with blanks comes first and at once (0), and
    the tokens of the spans follow one by one. Where a token stands is told by two trained vectors.

    Args:
        config: sizes and choices; `position` must be `Learned()`: its table is for the first of the two positions.
        max_span_len: the longest span, its start symbol included.
        generator: source of randomness for the fresh weights; None means torch's global one.
    Raises:
        ValueError: if position is not `Learned()`.
    Source: Du et al. 2022, GLM, section 2.2 (2D positional encoding).
    Lesson: 07.
    """

    def __init__(self, config: ModelConfig, max_span_len: int, generator: torch.Generator | None = None):
        super().__init__()
        if config.position != Learned():
            raise ValueError(f"position={config.position!r}: this model adds two trained vectors, use Learned()")
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.d_model)
        self.pos_emb = nn.Embedding(config.max_seq_len, config.d_model)
        self.span_pos_emb = nn.Embedding(max_span_len + 1, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(build_block(config, layer) for layer in range(config.n_layers))
        self.final_norm = build_norm(config)
        self.lm_head = build_head(config, self.tok_emb)
        init.fill_fresh(self, config, generator)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        text_positions: Int[Tensor, "*b T"],
        span_positions: Int[Tensor, "*b T"],
        order: Int[Tensor, "*b T"],
    ) -> Float[Tensor, "B T V"]:
        r"""Logits for the next token of a span at each of its tokens; those in the text with blanks mean nothing.

        Args:
            token_ids: (B, T), int64; see `text.infilling.Infilling` for all four.
            text_positions: (T,) or (B, T), int64.
            span_positions: (T,) or (B, T), int64.
            order: (T,) or (B, T), int64; -1 = padding.
        Returns: (B, T, V), float.
        """

        def place(_: Tensor) -> Tensor:
            return self.pos_emb(text_positions) + self.span_pos_emb(span_positions)

        blocks = bind_blocks(self.config, self.blocks, order, None, self.dropout)
        tok_emb, head = embed_tokens(self.config, self.tok_emb), scaled_head(self.config, self.lm_head)
        return gpt.gpt_forward(token_ids, order, tok_emb, place, blocks, self.final_norm, head)
