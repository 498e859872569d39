r"""Induction heads: find the attention heads that copy, and take a head away to see what it was good for."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.inference import repetition
from minillm.layers.recorder import record


def repeated_random(
    batch_size: int, period: int, n_repeats: int, vocab_size: int, generator: torch.Generator
) -> Int[Tensor, "B T"]:
    r"""Random tokens that are said again and again, so that nothing but the text itself can foretell a token.

    Args:
        batch_size: B, texts.
        period: random tokens in each, at least 2.
        n_repeats: how often they are said, at least 2.
        vocab_size: V, tokens to draw from.
        generator: the source of chance; it is advanced.
    Returns: (B, period * n_repeats), int64.
    Raises:
        ValueError: if period or n_repeats is less than 2.
    Source: Olsson et al. 2022, In-context Learning and Induction Heads, "the mechanistic view".
    Lesson: 09.
    """
    if period < 2 or n_repeats < 2:
        raise ValueError(f"period={period}, n_repeats={n_repeats}: use at least 2 tokens, said at least twice")
    return torch.randint(vocab_size, (batch_size, period), generator=generator).repeat(1, n_repeats)


@dataclass(frozen=True)
class HeadScores:
    r"""What each head looks at, on average; all (L, H), 0 to 1.

    Args:
        previous: weight on the token just before the query.
        induction: weight on the token after the query token's earlier occurrence, that is on the token to be copied.
    Lesson: 09.
    """

    previous: Tensor
    induction: Tensor


def score_heads(model: Any, token_ids: Int[Tensor, "B T"], period: int) -> HeadScores:
    r"""Measure on repeated random texts what every head looks at.

    Only queries are counted from which the token to be copied can be seen: those of the second time on.

    Args:
        model: token ids -> logits; its attention reports `attn_weights`.
        token_ids: (B, T), int64, from `repeated_random`.
        period: of the texts.
    Returns: the scores.
    Raises:
        ValueError: if the text is not repeated.
    Source: Olsson et al. 2022, "prefix matching" and "previous token heads".
    Lesson: 09.
    """
    if not torch.equal(token_ids[:, period:], token_ids[:, :-period]):
        raise ValueError(f"period={period}: the tokens of token_ids do not come again after so many places")
    with record("attn_weights") as tape, torch.no_grad():
        model(token_ids)
    queries = torch.arange(period, token_ids.shape[1])
    read = [weights[:, :, queries].float() for weights in tape["attn_weights"]]  # (B, H, queries, Tk) a layer

    def mean_weight(distance: int) -> Tensor:
        keys = queries - distance
        return torch.stack([layer[:, :, torch.arange(len(keys)), keys].mean((0, 2)) for layer in read])

    return HeadScores(previous=mean_weight(1), induction=mean_weight(period - 1))


def copying_nats(model: Any, token_ids: Int[Tensor, "B T"], period: int) -> Float[Tensor, "2"]:
    r"""What repeated random texts cost a model the first time, and when they come again.

    Args:
        model: token ids -> logits, in evaluation mode.
        token_ids: (B, T), int64, from `repeated_random`.
        period: of the texts.
    Returns: (2,), float32: mean nats a token within the first period, and of all later ones.
    Lesson: 09.
    """
    nats = repetition.token_nats(model, token_ids)
    # Target t + 1 can be told from the text once token t has been there before: from t = period on.
    return torch.stack([nats[:, : period - 1].mean(), nats[:, period:].mean()])


def without_head(model: Any, layer: int, head: int) -> Any:
    r"""A copy of a model in which one attention head says nothing.

    Args:
        model: a GPT; it is not changed.
        layer: index of the block.
        head: index of the query head.
    Returns: the copy: the columns of `o_proj` that read this head are 0.
    Raises:
        ValueError: if there is no such head.
    Source: Olsson et al. 2022, "ablations".
    Lesson: 09.
    """
    n_layers, n_heads, head_dim = model.config.n_layers, model.config.n_heads, model.config.head_dim
    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise ValueError(f"layer={layer}, head={head}: there are {n_layers} layers of {n_heads} heads; count from 0")
    silent = deepcopy(model)
    with torch.no_grad():
        silent.blocks[layer].attn.o_proj.weight[:, head * head_dim : (head + 1) * head_dim] = 0.0
    return silent
