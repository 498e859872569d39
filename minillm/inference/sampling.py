r"""From logits to one token: temperature, the filters, and the draw."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.layers import softmax


def apply_temperature(logits: Float[Tensor, "*batch V"], temperature: float) -> Float[Tensor, "*batch V"]:
    r"""Divide the logits: below 1 the distribution sharpens, above 1 it flattens.

    Args:
        logits: (..., V), float.
        temperature: above 0; 1 changes nothing.
    Returns: (..., V), dtype of logits.
    Raises:
        ValueError: if temperature is not above 0 (greedy choice is not a division; see `sample`).
    Source: Ackley et al. 1985, A Learning Algorithm for Boltzmann Machines, section 2.
    Lesson: 09.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: use a number above 0; sample(..., temperature=0.0) is greedy")
    return logits / temperature


def top_k_filter(logits: Float[Tensor, "*batch V"], top_k: int) -> Float[Tensor, "*batch V"]:
    r"""Keep the k largest logits and forbid the rest; logits equal to the k-th are kept.

    Args:
        logits: (..., V), float.
        top_k: at least 1; V or more changes nothing.
    Returns: (..., V), -inf where forbidden.
    Raises:
        ValueError: if top_k is less than 1.
    Source: Fan et al. 2018, Hierarchical Neural Story Generation, section 5.4.
    Lesson: 09.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k}: use at least 1, or None for no limit")
    kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, float("-inf"))


def top_p_filter(logits: Float[Tensor, "*batch V"], top_p: float) -> Float[Tensor, "*batch V"]:
    r"""Keep the smallest set of likeliest tokens whose probabilities reach top_p, and forbid the rest.

    The token that crosses the line is kept, so that at least one always is.

    Args:
        logits: (..., V), float.
        top_p: in (0, 1]; 1 changes nothing.
    Returns: (..., V), -inf where forbidden.
    Raises:
        ValueError: if top_p is outside (0, 1].
    Source: Holtzman et al. 2019, The Curious Case of Neural Text Degeneration, section 3.1.
    Lesson: 09.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: use a share in (0, 1]")
    if top_p == 1:  # rounding may carry the sum of all to 1 before the last tokens have been counted
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = softmax.softmax(ordered, dim=-1)
    before = probs.cumsum(dim=-1) - probs  # the mass of likelier tokens
    ordered = ordered.masked_fill(before >= top_p, float("-inf"))
    return torch.empty_like(logits).scatter(-1, order, ordered)


def min_p_filter(logits: Float[Tensor, "*batch V"], min_p: float) -> Float[Tensor, "*batch V"]:
    r"""Keep the tokens that are at least min_p times as likely as the likeliest.

    Args:
        logits: (..., V), float.
        min_p: in [0, 1]; 0 changes nothing, 1 keeps only the best.
    Returns: (..., V), -inf where forbidden.
    Raises:
        ValueError: if min_p is outside [0, 1].
    Source: Nguyen et al. 2024, Turning Up the Heat: Min-p Sampling, section 3.
    Lesson: 09.
    """
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p={min_p}: use a share in [0, 1]")
    probs = softmax.softmax(logits, dim=-1)
    return logits.masked_fill(probs < min_p * probs.amax(dim=-1, keepdim=True), float("-inf"))


def typical_filter(logits: Float[Tensor, "*batch V"], typical_p: float) -> Float[Tensor, "*batch V"]:
    r"""Keep the tokens whose surprise is nearest to the average surprise, until they hold typical_p; forbid the rest.

    The surprise of a token is -log p, and its average over the distribution is the entropy. A text whose every token is
    the likeliest is less surprising than texts are; so even the best token may go when the entropy is high.

    Args:
        logits: (..., V), float; -inf where a token is forbidden already.
        typical_p: in (0, 1]; 1 changes nothing.
    Returns: (..., V), -inf where forbidden.
    Raises:
        ValueError: if typical_p is outside (0, 1].
    Source: Meister et al. 2022, Locally Typical Sampling. Of equal distances the earlier token is kept first.
    Lesson: 09.
    """
    if not 0 < typical_p <= 1:
        raise ValueError(f"typical_p={typical_p}: use a share in (0, 1]")
    if typical_p == 1:
        return logits
    log_probs = softmax.log_softmax(logits, dim=-1)
    probs = log_probs.exp()
    entropy = torch.special.entr(probs).sum(dim=-1, keepdim=True)  # -p log p, and 0 at p = 0
    order = (-log_probs - entropy).abs().argsort(dim=-1, stable=True)
    ordered = probs.gather(-1, order)
    beyond = ordered.cumsum(dim=-1) - ordered >= typical_p  # the mass of more typical tokens is enough
    return logits.masked_fill(torch.empty_like(beyond).scatter(-1, order, beyond), float("-inf"))


def sample(
    logits: Float[Tensor, "B V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
    typical_p: float | None = None,
) -> Int[Tensor, "B"]:
    r"""Draw one token a row: temperature first, then top-k, top-p, min-p and typical_p, then the draw.

    Args:
        logits: (B, V), float.
        temperature: 0.0 = greedy (the first of the largest); the filters and the generator then play no part.
        top_k: as in `top_k_filter`; None = no limit.
        top_p: as in `top_p_filter`; None = no limit.
        min_p: as in `min_p_filter`; None = no limit.
        generator: source of randomness; None means torch's global one.
        typical_p: as in `typical_filter`; None = no limit.
    Returns: (B,), int64.
    Raises:
        ValueError: if an argument is out of its range.
    Source: the order of filters is that of Hugging Face's `generate`.
    Lesson: 09.
    """
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    logits = apply_temperature(logits.float(), temperature)
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    if min_p is not None:
        logits = min_p_filter(logits, min_p)
    if typical_p is not None:
        logits = typical_filter(logits, typical_p)
    probs = softmax.softmax(logits, dim=-1)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]
