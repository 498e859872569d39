r"""From text to text: a prompt in, pieces of text out as the model writes them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.inference.generate import stream


def encode_prompt(tokenizer: Any, prompt: str, max_seq_len: int) -> list[int]:
    r"""The token ids that a model is given before it writes: the begin token, where there is one, and the prompt.

    Args:
        tokenizer: of the model.
        prompt: the beginning of a text.
        max_seq_len: of the model.
    Returns: ids, at least one.
    Raises:
        ValueError: if there is nothing to begin with, or the prompt is too long.
    Lesson: 09.
    """
    begin = [tokenizer.bos_id] if hasattr(tokenizer, "bos_id") else []
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
) -> Iterator[str]:
    r"""Write on after a prompt, and yield the text in pieces as it comes; joined, they are what follows the prompt.

    It ends at the end token, where the tokenizer has one, or when the model's positions are used up.

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
    Returns: an iterator over pieces of text, none of them empty.
    Raises:
        ValueError: if the prompt is empty or too long, or an argument is out of range.
    Lesson: 09.
    """
    max_seq_len = model.config.max_seq_len
    ids = encode_prompt(tokenizer, prompt, max_seq_len)
    room = max_seq_len - len(ids) + 1  # the last token that is written needs no position
    token_ids = torch.tensor([ids], device=next(model.parameters()).device)
    stop_ids = [tokenizer.eos_id] if hasattr(tokenizer, "eos_id") else None
    steps = stream(
        model, token_ids, room if max_new_tokens is None else min(room, max_new_tokens), temperature=temperature,
        top_k=top_k, top_p=top_p, min_p=min_p, generator=generator, stop_ids=stop_ids)
    yield from _new_pieces(tokenizer, ids, steps)


def _new_pieces(tokenizer: Any, ids: list[int], steps: Iterator[Tensor]) -> Iterator[str]:
    ids, shown = list(ids), len(tokenizer.decode(ids))
    text = tokenizer.decode(ids)
    for step in steps:
        ids.append(int(step))
        text = tokenizer.decode(ids)
        if len(text) > shown and not text.endswith("\ufffd"):  # half of a character: wait for the rest of its bytes
            yield text[shown:]
            shown = len(text)
    if len(text) > shown:
        yield text[shown:]
