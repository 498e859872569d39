r"""Write on: one token at a time, with a cache."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minillm.inference import sampling

Processor = Callable[[Tensor, Tensor], Tensor]  # (token_ids so far, logits) -> logits


def stream(
    model: Any,
    token_ids: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
    padding_mask: Bool[Tensor, "B T_seen"] | None = None,
    stop_ids: Iterable[int] | None = None,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    cache: Sequence[Any] | None = None,
    typical_p: float | None = None,
) -> Iterator[Int[Tensor, "B"]]:
    r"""Yield the next token of every row, again and again; the prompt is read once, and the cache remembers the rest.

    Args:
        model: with `model(token_ids, padding_mask, positions, cache)` and `model.new_cache(batch_size, capacity)`.
        token_ids: prompts, (B, T), int64, T at least 1; pad on the left where lengths differ.
        max_new_tokens: steps at most, at least 0.
        temperature: 0.0 = greedy.
        top_k: keep the k likeliest; None = no limit.
        top_p: keep the likeliest up to this mass; None = no limit.
        min_p: keep tokens at least this share as likely as the best; None = no limit.
        generator: source of randomness; None means torch's global one.
        padding_mask: (B, cached + T), bool, True = real token, of what a given cache holds too; the last must be real.
        stop_ids: tokens that finish a row; the stream ends when all rows are finished. None = never.
        pad_id: what a finished row gets.
        processors: penalties and constraints, see `processed`; before temperature and filters.
        cache: layer caches to go on with; token_ids then follow what they hold. None = fresh contiguous ones.
        typical_p: keep the tokens of nearly average surprise up to this mass; None = no limit.
    Returns: an iterator over (B,) int64 tensors.
    Raises:
        ValueError: if an argument is out of range.
    Source: Radford et al. 2019, section 2.
    Lesson: 09.
    """
    refuse_bad_prompts(token_ids, max_new_tokens, padding_mask)
    if cache is None:  # the last sampled token never goes back in, so the cache need not hold it
        cache = model.new_cache(len(token_ids), token_ids.shape[1] + max(max_new_tokens - 1, 0))
    stops = torch.tensor(sorted(stop_ids) if stop_ids else [], dtype=torch.int64, device=token_ids.device)
    finished = torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)
    new_ids = so_far = token_ids
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            logits = next_logits(model, new_ids, padding_mask, cache)
            logits = processed(logits, so_far, padding_mask, processors, finished)
            chosen = sampling.sample(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                                     generator=generator, typical_p=typical_p)
            next_ids = chosen.masked_fill(finished, pad_id)
            finished = finished | torch.isin(next_ids, stops)
        yield next_ids.clone()  # made outside of inference mode: an ordinary tensor
        if len(stops) and bool(finished.all()):
            return
        new_ids = next_ids[:, None]
        so_far = torch.cat([so_far, new_ids], dim=1)
        padding_mask = None if padding_mask is None else F.pad(padding_mask, (0, 1), value=True)


def next_logits(
    model: Any,
    new_ids: Int[Tensor, "B T"],
    padding_mask: Bool[Tensor, "B T_seen"] | None,
    cache: Sequence[Any] | None,
) -> Float[Tensor, "B V"]:
    r"""Let a model read new tokens, and ask for the next one only.

    Of a long prompt the logits of all tokens would be large, and all but the last are of no use.

    Args:
        model: as in `stream`.
        new_ids: (B, T), int64, T at least 1.
        padding_mask: as in `stream`.
        cache: layer caches, which take the new tokens in; None for a model that keeps what it has read to itself.
    Returns: (B, V), float.
    Lesson: 09.
    """
    if new_ids.shape[1] > 1 and hasattr(model, "last_logits"):
        return model.last_logits(new_ids, padding_mask=padding_mask, cache=cache)
    return model(new_ids, padding_mask=padding_mask, cache=cache)[:, -1]


def processed(
    logits: Float[Tensor, "B V"],
    so_far: Int[Tensor, "B T"],
    padding_mask: Bool[Tensor, "B T_all"] | None,
    processors: Sequence[Processor],
    finished: Bool[Tensor, "B"] | None = None,
) -> Float[Tensor, "B V"]:
    r"""Change logits by what has been written: penalties and constraints are functions of both.

    Args:
        logits: of the next token, (B, V), float.
        so_far: ids of prompt and text, (B, T), int64.
        padding_mask: (B, cached + T), bool, True = real token; None = all real.
        processors: called one after the other, as processor(so_far, logits) -> logits; padding is -1 there.
        finished: rows that need no token, (B,), bool; None = rows may be left without a token that is allowed.
    Returns: (B, V), float.
    Raises:
        ValueError: if the processors together forbid every token of a row that is not finished.
    Lesson: 09.
    """
    if processors and padding_mask is not None:
        so_far = so_far.masked_fill(~padding_mask[:, -so_far.shape[1] :], -1)
    for processor in processors:
        logits = processor(so_far, logits)
    if processors and finished is not None:
        nothing = (logits == float("-inf")).all(dim=-1)
        if bool((nothing & ~finished).any()):
            row = int((nothing & ~finished).nonzero()[0])
            raise ValueError(f"processors: together they forbid every token of row {row}; ask for less at once")
        logits = logits.masked_fill((nothing & finished)[:, None], 0.0)  # something to draw from; it gets pad_id
    return logits


def refuse_bad_prompts(
    token_ids: Int[Tensor, "B T"], max_new_tokens: int, padding_mask: Bool[Tensor, "B T_all"] | None = None
) -> None:
    r"""Say what is wrong with prompts that nothing can be written after.

    Args:
        token_ids: prompts, (B, T), int64.
        max_new_tokens: tokens to add.
        padding_mask: (B, T), bool, True = real token.
    Raises:
        ValueError: if a prompt is empty, the count is negative, or a prompt ends with padding.
    Lesson: 09.
    """
    if token_ids.shape[1] < 1 or max_new_tokens < 0:
        raise ValueError(f"token_ids {tuple(token_ids.shape)}, max_new_tokens={max_new_tokens}: "
                         "use at least one prompt token (e.g. bos) and a count of at least 0")
    if padding_mask is not None and not bool(padding_mask[:, -1].all()):
        raise ValueError("padding_mask: the last column must be real tokens; pad prompts on the left")


def generate(
    model: Any,
    token_ids: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
    padding_mask: Bool[Tensor, "B T_seen"] | None = None,
    stop_ids: Iterable[int] | None = None,
    pad_id: int = 0,
    processors: Sequence[Processor] = (),
    cache: Sequence[Any] | None = None,
    typical_p: float | None = None,
) -> Int[Tensor, "B T_all"]:
    r"""Write max_new_tokens tokens after each prompt and return prompt and text together.

    Args:
        model: as in `stream`.
        token_ids: prompts, (B, T), int64; pad on the left where lengths differ.
        max_new_tokens: tokens to add.
        temperature: 0.0 = greedy.
        top_k: keep the k likeliest; None = no limit.
        top_p: keep the likeliest up to this mass; None = no limit.
        min_p: keep tokens at least this share as likely as the best; None = no limit.
        generator: source of randomness; None means torch's global one.
        padding_mask: as in `stream`.
        stop_ids: as in `stream`.
        pad_id: what a finished row is filled with.
        processors: as in `stream`.
        cache: as in `stream`.
        typical_p: as in `stream`.
    Returns: (B, T + new), int64, the prompt first; always max_new_tokens new columns, padded with pad_id.
    Raises:
        ValueError: if an argument is out of range.
    Source: Radford et al. 2019, section 2.
    Lesson: 09.
    """
    steps = list(stream(
        model, token_ids, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        generator=generator, padding_mask=padding_mask, stop_ids=stop_ids, pad_id=pad_id,
        processors=processors, cache=cache, typical_p=typical_p))
    written = torch.stack(steps, dim=1) if steps else token_ids[:, :0]
    missing = max_new_tokens - written.shape[1]
    padding = token_ids.new_full((len(token_ids), missing), pad_id)
    return torch.cat([token_ids, written, padding], dim=1)
