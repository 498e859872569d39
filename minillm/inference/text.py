r"""From text to text: a prompt in, pieces of text out as the model writes them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.inference.beam import beam_search
from minillm.inference.generate import Processor, stream
from minillm.inference.steering import PLAIN, Steering
from minillm.inference.stopping import stop_at


def encode_prompt(tokenizer: Any, prompt: str, max_seq_len: int) -> list[int]:
    r"""The token ids that a model is given before it writes: the begin token, where it expects one, and the prompt.

    Args:
        tokenizer: of the model.
        prompt: the beginning of a text.
        max_seq_len: of the model.
    Returns: ids, at least one.
    Raises:
        ValueError: if there is nothing to begin with, or the prompt is too long.
    Lesson: 09.
    """
    begins = getattr(tokenizer, "adds_bos", True) and hasattr(tokenizer, "bos_id")
    begin = [tokenizer.bos_id] if begins else []
    ids = begin + tokenizer.encode(prompt)
    if not ids:
        raise ValueError(f"prompt={prompt!r}: this model's texts have no begin token; give at least one character")
    if len(ids) > max_seq_len:
        raise ValueError(f"prompt has {len(ids)} tokens: the model takes max_seq_len={max_seq_len}; shorten it")
    return ids


def stream_text(
    model: Any,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
    steering: Steering = PLAIN,
    typical_p: float | None = None,
) -> Iterator[str]:
    r"""Write on after a prompt, and yield the text in pieces as it comes; joined, they are what follows the prompt.

    It ends at the end token, where the tokenizer has one, before a stop string, or when the model's positions are used
    up.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        prompt: the beginning of the text.
        max_new_tokens: tokens at most; None = as many as the model has positions for.
        temperature: 0.0 = greedy.
        top_k: keep the k likeliest; None = no limit.
        top_p: keep the likeliest up to this mass; None = no limit.
        min_p: keep tokens at least this share as likely as the best; None = no limit.
        generator: source of randomness, on the model's device; None means torch's global one.
        steering: penalties, stop strings, and a pattern that the text must match.
        typical_p: keep the tokens of nearly average surprise up to this mass; None = no limit.
    Returns: an iterator over pieces of text, none of them empty.
    Raises:
        ValueError: if the prompt is empty or too long, or an argument is out of range.
    Lesson: 09.
    """
    max_seq_len = model.config.max_seq_len
    ids = encode_prompt(tokenizer, prompt, max_seq_len)
    room = max_seq_len - len(ids) + 1  # the last token that is written needs no position
    token_ids = torch.tensor([ids], device=next(model.parameters()).device)
    n_new = room if max_new_tokens is None else min(room, max_new_tokens)
    stop_ids, processors = steered(steering, tokenizer, len(ids), n_new)
    steps = stream(
        model, token_ids, n_new, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, generator=generator,
        stop_ids=stop_ids, processors=processors, typical_p=typical_p)
    yield from stop_at(_new_pieces(tokenizer, ids, steps, stop_ids), steering.stops)


def beam_texts(
    model: Any,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int | None = None,
    *,
    n_beams: int,
    length_penalty: float = 1.0,
    steering: Steering = PLAIN,
) -> list[tuple[str, float]]:
    r"""Look for the likeliest texts that follow a prompt.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        prompt: the beginning of the text.
        max_new_tokens: tokens at most; None = as many as the model has positions for.
        n_beams: how many beginnings are kept at each step.
        length_penalty: as in `beam_search`.
        steering: penalties, which act on log-probabilities here; stop strings, at which the texts found are cut; and a
            pattern, which leaves the scores of what matches as they are.
    Returns: at most n_beams pairs of a text, without the prompt, and its score, the best first.
    Raises:
        ValueError: if the prompt is empty or too long, or an argument is out of range.
    Lesson: 09.
    """
    ids = encode_prompt(tokenizer, prompt, model.config.max_seq_len)
    room = model.config.max_seq_len - len(ids) + 1
    n_new = room if max_new_tokens is None else min(room, max_new_tokens)
    stop_ids, processors = steered(steering, tokenizer, len(ids), n_new)
    token_ids = torch.tensor([ids], device=next(model.parameters()).device)
    found, scores = beam_search(
        model, token_ids, n_new, n_beams=n_beams, length_penalty=length_penalty, stop_ids=stop_ids,
        pad_id=stop_ids[0] if stop_ids else 0, processors=processors)
    texts = []
    for row, score in zip(found[0, :, len(ids) :].tolist(), scores[0].tolist(), strict=True):
        if score > float("-inf"):
            steps = (torch.tensor([token_id]) for token_id in row)
            texts.append(("".join(stop_at(_new_pieces(tokenizer, ids, steps, stop_ids), steering.stops)), score))
    return texts


def steered(
    steering: Steering, tokenizer: Any, prompt_len: int, max_new_tokens: int
) -> tuple[list[int], list[Processor]]:
    r"""The tokens that end a text, and the processors that steer it.

    Args:
        steering: what is asked for.
        tokenizer: of the model.
        prompt_len: tokens of the prompt, padding included.
        max_new_tokens: how many may be written.
    Returns: stop_ids and processors, as `stream`, `generate` and `beam_search` take them.
    Raises:
        ValueError: if no text matches the pattern that is asked for.
    Lesson: 09.
    """
    constraint = steering.constraint(tokenizer, prompt_len, max_new_tokens)
    if constraint is not None:
        return constraint.stop_ids, [*steering.processors(prompt_len, constraint.stop_ids), constraint]
    stop_ids = [tokenizer.eos_id] if hasattr(tokenizer, "eos_id") else []
    return stop_ids, steering.processors(prompt_len, stop_ids)


def _new_pieces(tokenizer: Any, ids: list[int], steps: Iterator[Tensor], stop_ids: list[int]) -> Iterator[str]:
    ids, shown = list(ids), len(tokenizer.decode(ids))
    text = tokenizer.decode(ids)
    for step in steps:
        if int(step) in stop_ids:  # an end, whatever it may spell
            break
        ids.append(int(step))
        text = tokenizer.decode(ids)
        if len(text) > shown and not text.endswith("\ufffd"):  # half of a character: wait for the rest of its bytes
            yield text[shown:]
            shown = len(text)
    if len(text) > shown:
        yield text[shown:]
