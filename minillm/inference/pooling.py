r"""One vector for a whole text, from one a token."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mean_pool(hidden: Float[Tensor, "B T D"], padding_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    r"""The mean over the real tokens of each row.

    Args:
        hidden: (B, T, D), float; what stands at padding, nan included, makes no difference.
        padding_mask: (B, T), bool, True = real token.
    Returns: (B, D), dtype of hidden, summed in float32; a row without a real token gives zeros.
    Source: Reimers and Gurevych 2019, Sentence-BERT, section 3, "MEAN".
    Lesson: 16.
    """
    real = padding_mask[:, :, None]
    total = hidden.float().masked_fill(~real, 0.0).sum(dim=1)
    return (total / real.sum(dim=1).clamp(min=1)).to(hidden.dtype)


def last_token_pool(hidden: Float[Tensor, "B T D"], padding_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    r"""The vector at the last real token of each row: in a causal model, the only one that has seen the whole text.

    Args:
        hidden: (B, T, D), float.
        padding_mask: (B, T), bool, True = real token; the padding may be left, right or both.
    Returns: (B, D), dtype of hidden; a row without a real token gives zeros.
    Source: Neelakantan et al. 2022, Text and Code Embeddings by Contrastive Pre-Training, section 2.
    Lesson: 16.
    """
    places = torch.arange(padding_mask.shape[1], device=hidden.device)
    last = torch.where(padding_mask, places, -1).amax(dim=1)
    taken = hidden[torch.arange(len(hidden), device=hidden.device), last.clamp(min=0)]
    return taken.masked_fill((last < 0)[:, None], 0.0)
