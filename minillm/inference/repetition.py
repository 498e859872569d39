r"""How repetitive is a text, does it end in a loop, and what does the model itself make of it?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def distinct_n(token_ids: Sequence[int], n: int) -> float:
    r"""The share of different n-grams among all n-grams of a text: 1 if none occurs twice.

    Args:
        token_ids: the text, at least n tokens.
        n: length of an n-gram, at least 1.
    Returns: in (0, 1].
    Raises:
        ValueError: if n is less than 1, or the text is shorter than n.
    Source: Li et al. 2016, A Diversity-Promoting Objective Function, section 5, there of all texts together.
    Lesson: 09.
    """
    if not 1 <= n <= len(token_ids):
        raise ValueError(f"n={n} for a text of {len(token_ids)} tokens: use at least 1, and at most its length")
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return len(set(grams)) / len(grams)


@dataclass(frozen=True)
class Loop:
    r"""The loop in which a text ends.

    Args:
        start: index of its first token.
        period: tokens until it begins again.
        repeats: how often it is gone through, the last time perhaps not to the end.
    Lesson: 09.
    """

    start: int
    period: int
    repeats: float


def find_loop(token_ids: Sequence[int], min_repeats: int = 3) -> Loop | None:
    r"""Find the loop that a text has fallen into, if it ends in one.

    The end of a text has period p if each of its tokens equals the one p places before. Of all periods that are gone
    through often enough the shortest is taken.

    Args:
        token_ids: the text.
        min_repeats: how often a period must be gone through, at least 2.
    Returns: the loop, or None.
    Raises:
        ValueError: if min_repeats is less than 2.
    Source: Xu et al. 2022, Learning to Break the Loop, section 2, which looks at sentences; here any period counts.
    Lesson: 09.
    """
    if min_repeats < 2:
        raise ValueError(f"min_repeats={min_repeats}: a loop is gone through at least twice; use 2 or more")
    n_tokens = len(token_ids)
    for period in range(1, n_tokens // min_repeats + 1):
        start = n_tokens - period
        while start > 0 and token_ids[start - 1] == token_ids[start - 1 + period]:
            start -= 1
        if n_tokens - start >= min_repeats * period:
            return Loop(start, period, (n_tokens - start) / period)
    return None


def token_nats(model: Any, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T_next"]:
    r"""How surprised a model is at each token of a text, given those before it.

    Args:
        model: token ids -> logits, in evaluation mode.
        token_ids: (B, T), int64, T at least 2.
    Returns: (B, T - 1), float32, nats; entry t is about token t + 1. The mean of a row is what the model was trained
        to make small on real texts.
    Raises:
        ValueError: if there is no token to be surprised at.
    Lesson: 09.
    """
    if token_ids.shape[1] < 2:
        raise ValueError(f"token_ids {tuple(token_ids.shape)}: use at least 2 tokens a row")
    with torch.inference_mode():
        logits = model(token_ids[:, :-1]).float()
        nats = F.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:], reduction="none")
    return nats.clone()


def repeat_nats(model: Any, sentences: Int[Tensor, "B T"], n_repeats: int) -> Float[Tensor, "B R"]:
    r"""Let a model read a sentence again and again: how surprised is it each time?

    If every repetition makes the next one likelier, a text that has begun to repeat itself goes on with it: this is
    called self-reinforcement.

    Args:
        model: token ids -> logits, in evaluation mode, with room for n_repeats * T tokens.
        sentences: (B, T), int64, T at least 2.
        n_repeats: how often each is read, at least 1.
    Returns: (B, n_repeats), float32, mean nats a token. A sentence's first token is left out: what comes before it
        differs between the first time and the others.
    Raises:
        ValueError: if the sentences are shorter than 2 tokens, or n_repeats is less than 1.
    Source: Xu et al. 2022, Learning to Break the Loop, section 2.2.
    Lesson: 09.
    """
    length = sentences.shape[1]
    if length < 2 or n_repeats < 1:
        raise ValueError(f"sentences {tuple(sentences.shape)}, n_repeats={n_repeats}: use sentences of at least 2 "
                         "tokens, read at least once")
    nats = token_nats(model, sentences.repeat(1, n_repeats))
    nats = F.pad(nats, (1, 0)).view(len(sentences), n_repeats, length)  # the text's first token has no surprise
    return nats[:, :, 1:].mean(-1)
