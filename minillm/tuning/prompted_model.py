r"""A frozen GPT that reads trained vectors among the tokens of every text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config import ModelConfig
from minillm.config.require import require
from minillm.model import gpt
from minillm.model.gpt import GPT
from minillm.model.stack import bind_blocks, embed_tokens, position_rule, scaled_head
from minillm.model.token_positions import resolve_positions
from minillm.tuning.swapping import swapped


class Layout(Protocol):
    r"""Where the vectors stand."""

    def arrange(
        self, prompt: Float[Tensor, "k D"], x: Float[Tensor, "B T D"], indices: Int[Tensor, "*b T"], first: bool
    ) -> tuple[Float[Tensor, "B W D"], Int[Tensor, "*b W"], Int[Tensor, "*b T"]]:
        r"""Put those of the prompt's vectors that are due among the tokens of a call.

        Args:
            prompt: all its vectors.
            x: vectors of the tokens.
            indices: which token of its text each is, from 0; -1 = padding.
            first: whether the call begins its texts.
        Returns: vectors, their positions (-1 = padding), and in which column each token's answer is found.
        """

    def tokens_in(self, slots: int, told: int | None) -> int:
        r"""How many columns of the caller's are behind so many cached ones.

        Args:
            slots: cached, at least 1.
            told: the number according to the padding mask, if there is one.
        Returns: the number.
        """

    def room(self, batch_size: int) -> int:
        r"""Columns that a cache needs beside those of the tokens.

        Args:
            batch_size: B.
        Returns: the number.
        """


@dataclass(frozen=True)
class _Past:
    length: int


class PromptedModel(nn.Module):
    r"""A GPT with trained vectors among its tokens; called, cached and generated from like the GPT itself.

    The caller never sees the vectors: (B, T) token ids give (B, T, V) logits. They take positions, however, so a text
    may have that many tokens less; `config.max_seq_len` says so.

    Args:
        model: a GPT; not changed, its numbers are shared.
        prompt: module () -> (k, D): vectors like those that the table of the vocabulary gives for tokens.
        layout: where they stand.
    Raises:
        ValueError: if the model is no GPT, or so many vectors leave no room for a text.
    Source: Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, section 2.
    Lesson: 13.
    """

    def __init__(self, model: GPT, prompt: nn.Module, layout: Layout):
        super().__init__()
        self.model = swapped(model, lambda name, module: module if name == "tok_emb" else None)  # frozen, nothing else
        self.prompt, self.layout = prompt, layout
        n_virtual = len(prompt())
        longest = model.config.max_seq_len - n_virtual
        require(longest >= 1, "length", n_virtual, f"use less than max_seq_len={model.config.max_seq_len} vectors")
        self.config: ModelConfig = replace(model.config, max_seq_len=longest)
        self.train(model.training)

    @property
    def blocks(self) -> nn.ModuleList:
        r"""The GPT's blocks."""
        return self.model.blocks

    @property
    def final_norm(self) -> nn.Module:
        r"""The GPT's last norm."""
        return self.model.final_norm

    @property
    def lm_head(self) -> nn.Module:
        r"""The GPT's head."""
        return self.model.lm_head

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
            padding_mask: (B, cached + T), bool, True = real token; the vectors do not count. None = all real.
            positions: (T,) or (B, T), int64, counted without the vectors; None = counted here.
            cache: from `new_cache`; the new tokens are appended, and the vectors where it is their turn.
        Returns: (B, T, V), float.
        """
        return self._head()(self.hidden(token_ids, padding_mask, positions, cache))

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
        indices = self._indices(token_ids, padding_mask, positions, cache)
        x = embed_tokens(self.config, self.model.tok_emb)(token_ids)
        first = not cache or cache[0].length == 0
        x, positions, columns = self.layout.arrange(self.prompt(), x, indices, first)
        out = hidden_of_vectors(self.model, x, positions, cache)
        if columns.dim() == 1:
            return out[:, columns]
        return out.gather(1, columns[..., None].expand(-1, -1, out.shape[-1]))

    def last_logits(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B V"]:
        r"""Logits after the last token alone.

        Args:
            token_ids: as in forward.
            padding_mask: as in forward.
            positions: as in forward.
            cache: as in forward.
        Returns: (B, V), float.
        """
        return self._head()(self.hidden(token_ids, padding_mask, positions, cache)[:, -1])

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> list[Any]:
        r"""The GPT's caches, with room for the vectors beside the tokens.

        Args:
            batch_size: B.
            capacity: tokens a sequence, the vectors not counted.
            dtype: of the stored keys and values; None means the model's own.
        Returns: a list of layer caches, to be passed as `cache`.
        """
        return self.model.new_cache(batch_size, capacity + self.layout.room(batch_size), dtype)

    def _head(self):
        return scaled_head(self.config, self.model.lm_head)

    def _indices(self, token_ids, padding_mask, positions, cache) -> Tensor:
        past, slots = 0, cache[0].length if cache else 0
        if slots:
            told = None if padding_mask is None else max(padding_mask.shape[1] - token_ids.shape[1], 1)
            past = self.layout.tokens_in(slots, told)
        return resolve_positions(token_ids, self.config.max_seq_len, padding_mask, positions, [_Past(past)])


def hidden_of_vectors(
    model: GPT, x: Float[Tensor, "B W D"], positions: Int[Tensor, "*b W"], cache: Sequence[Any] | None = None
) -> Float[Tensor, "B W D"]:
    r"""What a GPT makes of vectors, whether or not they are a token's: `GPT.hidden` without the lookup.

    Args:
        model: a GPT.
        x: in the place of the looked-up vectors, (B, W, D), float.
        positions: (W,) or (B, W), int64; -1 = padding.
        cache: from `new_cache`; None = no cache.
    Returns: the residual stream after the final norm, (B, W, D), float.
    Lesson: 13.
    """
    config = model.config
    pos_emb = position_rule(config, model.pos_emb, model.tok_emb)
    blocks = bind_blocks(config, model.blocks, positions, cache, lambda h: model.dropout(model.emb_norm(h)))
    no_ids = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
    return gpt.gpt_forward(no_ids, positions, lambda ids: x, pos_emb, blocks, model.final_norm, lambda h: h)


def token_vectors(model: GPT, token_ids: Sequence[int] | Int[Tensor, "k"]) -> Float[Tensor, "k D"]:
    r"""The vectors of some tokens, for a prompt to begin with.

    Args:
        model: a GPT.
        token_ids: k of them.
    Returns: (k, D), detached, at least float32.
    Raises:
        ValueError: if the model is no GPT, or an id is not in its vocabulary.
    Lesson: 13.
    """
    if not isinstance(model, GPT):
        raise ValueError(f"model={type(model).__name__}: vectors are put among the tokens of a minillm.model.gpt.GPT; "
                         "use one, tuned by other methods or not")
    ids = torch.as_tensor(token_ids, dtype=torch.int64)
    wrong = [int(each) for each in ids if not 0 <= each < model.config.vocab_size]
    require(not wrong, "init_ids", wrong, f"use ids from 0 to {model.config.vocab_size - 1}")
    with torch.no_grad():
        rows = embed_tokens(model.config, model.tok_emb)(ids.to(next(model.parameters()).device))
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
