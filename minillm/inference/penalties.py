r"""Penalties: logits that change with what has been written, so that a text repeats itself less."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def count_tokens(token_ids: Int[Tensor, "B T"], vocab_size: int) -> Int[Tensor, "B V"]:
    r"""Count how often each token of the vocabulary occurs in each row.

    Args:
        token_ids: (B, T), int64; -1 = padding, which is not counted.
        vocab_size: V.
    Returns: (B, V), int64.
    Lesson: 09.
    """
    counts = torch.zeros(len(token_ids), vocab_size + 1, dtype=torch.int64, device=token_ids.device)
    return counts.scatter_add(1, token_ids + 1, torch.ones_like(token_ids))[:, 1:]  # padding is counted in column 0


def repetition_penalty(
    logits: Float[Tensor, "B V"], token_ids: Int[Tensor, "B T"], penalty: float
) -> Float[Tensor, "B V"]:
    r"""Make every token that has occurred less likely, however often it occurred.

    A positive logit is divided by the penalty and a negative one multiplied: both go down.

    Args:
        logits: (B, V), float.
        token_ids: what has been read and written, (B, T), int64; -1 = padding.
        penalty: above 0; 1 changes nothing, above 1 discourages, below 1 encourages.
    Returns: (B, V), dtype of logits.
    Raises:
        ValueError: if penalty is not above 0.
    Source: Keskar et al. 2019, CTRL, section 4.1, which divides whatever the sign; two signs as in Hugging Face's.
    Lesson: 09.
    """
    if penalty <= 0:
        raise ValueError(f"penalty={penalty}: use a number above 0; 1 changes nothing")
    punished = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(occurs(token_ids, logits.shape[-1]), punished, logits)


def frequency_presence_penalty(
    logits: Float[Tensor, "B V"], token_ids: Int[Tensor, "B T"], frequency: float = 0.0, presence: float = 0.0
) -> Float[Tensor, "B V"]:
    r"""Take a little off a token's logit for every time it has occurred, and once for having occurred at all.

    Since it subtracts, it acts alike on logits of both signs, and does not change when all logits are shifted.

    Args:
        logits: (B, V), float.
        token_ids: what counts, (B, T), int64; -1 = padding. Leave the prompt out to punish only what was written.
        frequency: nats for each occurrence; 0 = off, below 0 encourages.
        presence: nats for one or more occurrences; 0 = off.
    Returns: (B, V), dtype of logits.
    Source: OpenAI's API reference, "frequency and presence penalties".
    Lesson: 09.
    """
    counts = count_tokens(token_ids, logits.shape[-1]).to(logits.dtype)
    return logits - frequency * counts - presence * counts.clamp(max=1)


def no_repeat_ngram(logits: Float[Tensor, "B V"], token_ids: Int[Tensor, "B T"], n: int) -> Float[Tensor, "B V"]:
    r"""Forbid every token that would complete a run of n tokens which the row has had already.

    Args:
        logits: (B, V), float.
        token_ids: what has been read and written, (B, T), int64; -1 = padding, which is part of no run.
        n: length of a run, at least 1; 1 forbids every token that has occurred.
    Returns: (B, V), -inf where forbidden.
    Raises:
        ValueError: if n is less than 1.
    Source: Paulus et al. 2017, A Deep Reinforced Model for Abstractive Summarization, section 2.5 (with n = 3).
    Lesson: 09.
    """
    if n < 1:
        raise ValueError(f"n={n}: use at least 1; 3 forbids a second occurrence of any three tokens in a row")
    if token_ids.shape[1] < n:
        return logits
    runs = token_ids.unfold(1, n, 1)  # (B, T - n + 1, n): every run that has been
    begun = token_ids[:, None, token_ids.shape[1] - n + 1 :]  # the last n - 1 tokens: a run that lacks its end
    again = (runs[..., :-1] == begun).all(dim=-1) & (runs >= 0).all(dim=-1)
    ends = runs[..., -1].masked_fill(~again, -1)
    return logits.masked_fill(occurs(ends, logits.shape[-1]), float("-inf"))


def occurs(token_ids: Int[Tensor, "B T"], vocab_size: int) -> Bool[Tensor, "B V"]:
    r"""Say which tokens of the vocabulary are in each row.

    Args:
        token_ids: (B, T), int64; -1 = padding.
        vocab_size: V.
    Returns: (B, V), bool.
    Lesson: 09.
    """
    return count_tokens(token_ids, vocab_size) > 0
