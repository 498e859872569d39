r"""Prompt tuning: vectors that stand in front of every text, trained; they are no word's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minillm.config.require import require
from minillm.model.gpt import GPT
from minillm.tuning.card import signed
from minillm.tuning.encoders import Vectors
from minillm.tuning.prompted_model import PromptedModel, token_vectors


def prompt_concat(
    prompt: Float[Tensor, "k D"], x: Float[Tensor, "B T D"], padding_mask: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B k_T D"], Bool[Tensor, "B k_T"]]:
    r"""Put the same vectors in front of every text, and say that they are real.

        x               .  .  the cat sat        padding_mask   0 0 1 1 1
        with a prompt   P0 P1 .  .  the cat sat  padding_mask   1 1 0 0 1 1 1

    Between the prompt and a text there may be padding: it has no position, so the text still follows the prompt.

    Args:
        prompt: vectors of the virtual tokens, (k, D), float.
        x: vectors of the texts, (B, T, D), float.
        padding_mask: (B, T), bool, True = real token.
    Returns: (B, k + T, D), dtype of x, and the mask of both, (B, k + T), bool.
    Source: Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, section 2: [P; X].
    Lesson: 13.
    """
    repeated = prompt.to(x.dtype).expand(len(x), *prompt.shape)
    real = padding_mask.new_ones(len(x), len(prompt))
    return torch.cat([repeated, x], dim=1), torch.cat([real, padding_mask], dim=1)


def prompt_tuning(
    model: GPT,
    length: int = 20,
    init_ids: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> PromptedModel:
    r"""A model that reads `length` trained vectors before every text; they alone are trained, length * D numbers.

    Args:
        model: a GPT, tuned by other methods or not; not changed, its numbers are shared.
        length: k, vectors in front.
        init_ids: tokens with whose vectors they begin, over and over until there are enough; None = tokens drawn at
            random.
        generator: source of randomness; None means torch's global one.
    Returns: a new model, called like the old one; texts may be k tokens shorter.
    Raises:
        ValueError: if an argument is out of range, or the model is no GPT.
    Source: Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, sections 2 and 2.1; there the
        tokens are drawn from the 5000 that are most frequent.
    Lesson: 13.
    """
    rows = token_vectors(model, first_ids(model, length, init_ids, generator))
    return signed(PromptedModel(model, Vectors(rows), Front(length)), model, "prompt_tuning", length=length)


def first_ids(
    model: GPT, length: int, init_ids: Sequence[int] | None, generator: torch.Generator | None
) -> Int[Tensor, "k"]:
    r"""Tokens for trained vectors to begin with.

    Args:
        model: with a vocabulary.
        length: k.
        init_ids: to be taken, over and over; None = at random.
        generator: source of randomness.
    Returns: k ids, int64.
    Raises:
        ValueError: if the length is less than 1, or init_ids is empty.
    Lesson: 13.
    """
    require(isinstance(length, int) and length >= 1, "length", length, "use a whole number of at least 1")
    if init_ids is None:
        return torch.randint(model.config.vocab_size, (length,), generator=generator)
    require(len(init_ids) > 0, "init_ids", init_ids, "use at least one token, or None")
    return torch.as_tensor([int(init_ids[place % len(init_ids)]) for place in range(length)])


@dataclass(frozen=True)
class Front:
    r"""All vectors before the first token.

    Args:
        length: k.
    Lesson: 13.
    """

    length: int

    def arrange(
        self, prompt: Float[Tensor, "k D"], x: Float[Tensor, "B T D"], indices: Int[Tensor, "*b T"], first: bool
    ) -> tuple[Float[Tensor, "B W D"], Int[Tensor, "*b W"], Int[Tensor, "*b T"]]:
        r"""As `Layout.arrange`.

        Args:
            prompt: all vectors.
            x: vectors of the tokens.
            indices: of the tokens in their texts; -1 = padding.
            first: whether the call begins its texts.
        Returns: vectors, positions, columns.
        """
        seq_len, behind = x.shape[1], (indices + self.length).masked_fill(indices < 0, -1)
        if not first:
            return x, behind, torch.arange(seq_len, device=x.device)
        both, real = prompt_concat(prompt, x, (indices >= 0).expand(len(x), -1))
        before = torch.arange(self.length, device=x.device).expand(*indices.shape[:-1], -1)
        positions = torch.cat([before, behind], dim=-1)
        if indices.dim() == 2:  # what is no real token has no position
            positions = positions.masked_fill(~real, -1)
        return both, positions, torch.arange(self.length, self.length + seq_len, device=x.device)

    def tokens_in(self, slots: int, told: int | None) -> int:
        r"""As `Layout.tokens_in`.

        Args:
            slots: cached.
            told: not needed here.
        Returns: slots without those of the vectors.
        """
        return slots - self.length

    def room(self, batch_size: int) -> int:
        r"""As `Layout.room`.

        Args:
            batch_size: B.
        Returns: k.
        """
        return self.length
