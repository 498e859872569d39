r"""Prompt tuning: vectors that stand in front of every text, trained; they are no word's."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
