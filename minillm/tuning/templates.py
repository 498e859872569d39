r"""P-tuning: trained vectors at several places of a text, made by a small network that is discarded afterwards.

    template (2, 3), gap 4       P0 P1 t0 t1 t2 t3 P2 P3 P4 t4 t5 ...

What follows t3 is asked for after P4, so that the vectors in between can say something about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.config.require import require
from minillm.model.gpt import GPT
from minillm.tuning.card import signed
from minillm.tuning.encoders import PromptEncoder, Vectors
from minillm.tuning.prompted_model import PromptedModel, token_vectors
from minillm.tuning.prompts import first_ids


def weave(
    prompt: Float[Tensor, "k D"], x: Float[Tensor, "B T D"], indices: Int[Tensor, "B T"], places: Int[Tensor, "k"]
) -> tuple[Float[Tensor, "B W D"], Int[Tensor, "B W"], Int[Tensor, "B T"]]:
    r"""Put vectors among tokens, each after so many tokens of its text; rows are filled up on the left.

    A vector comes with the token that it follows, those of place 0 with the first token: so a text may come in pieces.

    Args:
        prompt: the vectors, (k, D), float.
        x: vectors of the tokens, (B, T, D), float.
        indices: which token of its text each is, (B, T), int, growing; -1 = padding.
        places: tokens before each vector, (k,), int64, in order.
    Returns: vectors, (B, W, D), dtype of x, with W as small as can be; their positions, (B, W), -1 = padding; and the
        column of each token, or of the last of the vectors that follow it, (B, T).
    Source: Liu et al. 2021, GPT Understands, Too, section 3.1, for prompts around the parts of a text.
    Lesson: 13.
    """
    batch_size, k = len(x), len(prompt)
    due = (indices[:, :, None] == (places - 1).clamp(min=0)).any(dim=1)
    # Token n gets the key 2n + 2, a vector with n tokens before it 2n + 1: sorted, everything stands where it belongs.
    keys = torch.cat([(2 * places + 1).masked_fill(~due, -1), (2 * indices + 2).masked_fill(indices < 0, -1)], dim=1)
    order = keys.argsort(dim=1, stable=True)
    skipped = min(int((keys < 0).sum(dim=1).min()), keys.shape[1] - 1)
    kept = order[:, skipped:]
    both = torch.cat([prompt.to(x.dtype).expand(batch_size, -1, -1), x], dim=1)
    n_before = (places <= indices[..., None]).sum(dim=-1)
    own_positions = (places + torch.arange(k, device=x.device)).expand(batch_size, -1)
    positions = torch.cat([own_positions, indices + n_before], dim=1)
    positions = positions.masked_fill(keys < 0, -1).gather(1, kept)
    n_behind = ((places == indices[..., None] + 1) & (indices >= 0)[..., None]).sum(dim=-1)
    columns = order.argsort(dim=1)[:, k:] - skipped + n_behind
    return both.gather(1, kept[..., None].expand(-1, -1, x.shape[-1])), positions, columns.clamp(min=0)


@dataclass(frozen=True)
class Template:
    r"""Groups of vectors with tokens between them, the first group before all tokens.

    Args:
        groups: vectors in each group.
        gap: tokens between a group and the next.
    Lesson: 13.
    """

    groups: tuple[int, ...]
    gap: int

    def places(self) -> list[int]:
        r"""Tokens before each vector. Lesson: 13."""
        return [self.gap * number for number, size in enumerate(self.groups) for _ in range(size)]

    def arrange(
        self, prompt: Float[Tensor, "k D"], x: Float[Tensor, "B T D"], indices: Int[Tensor, "*b T"], first: bool
    ) -> tuple[Float[Tensor, "B W D"], Int[Tensor, "*b W"], Int[Tensor, "*b T"]]:
        r"""As `Layout.arrange`.

        Args:
            prompt: all vectors.
            x: vectors of the tokens.
            indices: of the tokens in their texts; -1 = padding.
            first: not needed here: the indices say it.
        Returns: vectors, positions, columns.
        """
        return weave(prompt, x, indices.expand(len(x), -1), torch.tensor(self.places(), device=x.device))

    def tokens_in(self, slots: int, told: int | None) -> int:
        r"""As `Layout.tokens_in`.

        Args:
            slots: cached; without padding if nothing is told.
            told: the number of columns according to the padding mask.
        Returns: the number.
        Raises:
            ValueError: if no number of tokens fills so many slots.
        """
        if told is not None:
            return told
        places = self.places()
        for tokens in range(max(slots - len(places), 1), slots + 1):
            if tokens + sum(place <= tokens for place in places) == slots:
                return tokens
        raise ValueError(f"cache holds {slots} tokens, which is no text with vectors at {places}; use a cache that "
                         "this model has filled, and the padding mask if there was one")

    def room(self, batch_size: int) -> int:
        r"""As `Layout.room`.

        Args:
            batch_size: B.
        Returns: k for each row, since padded rows reach a place at different times, and the others wait.
        """
        return sum(self.groups) * batch_size


def p_tuning(
    model: GPT,
    template: Sequence[int] = (3, 3),
    gap: int = 4,
    encoder: str | None = "lstm",
    init_ids: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> PromptedModel:
    r"""A model that reads trained vectors before a text and inside it; while they are learned, a network makes them.

    Args:
        model: a GPT, tuned by other methods or not; not changed, its numbers are shared.
        template: vectors in each group; the first group stands before the text.
        gap: tokens of the text between a group and the next.
        encoder: "lstm" or "mlp", which `minillm.tuning.finished` discards; None = the vectors are trained themselves.
        init_ids: tokens with whose vectors the network's input begins, or the vectors; None = tokens drawn at random.
        generator: source of randomness; None means torch's global one.
    Returns: a new model, called like the old one; texts may be sum(template) tokens shorter.
    Raises:
        ValueError: if an argument is out of range, or the model is no GPT.
    Source: Liu et al. 2021, GPT Understands, Too, sections 3.1 and 3.2. There a template goes around the parts of a
        task's text, and the model may be trained with it; here groups stand at fixed distances, and it is frozen.
    Lesson: 13.
    """
    sizes = tuple(template)
    good = bool(sizes) and all(isinstance(size, int) and size >= 0 for size in sizes)
    require(good and sum(sizes) > 0, "template", template, "use numbers of vectors, such as (3, 3)")
    require(isinstance(gap, int) and gap >= 1, "gap", gap, "use a whole number of at least 1")
    rows = token_vectors(model, first_ids(model, sum(sizes), init_ids, generator))
    prompt = Vectors(rows) if encoder is None else PromptEncoder(rows, encoder, generator)
    tuned = PromptedModel(model, prompt, Template(sizes, gap))
    return signed(tuned, model, "p_tuning", template=sizes, gap=gap, encoder=encoder)
