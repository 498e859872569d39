r"""Where a text ends: stop strings, which care nothing for token borders, and a least length."""

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from minillm.inference.generate import Processor


def cut_at_stop(text: str, stops: Iterable[str]) -> str:
    r"""Cut a text before the first stop string in it: the one that is complete first.

    Args:
        text: any text.
        stops: strings, none empty.
    Returns: what stands before that stop string; the whole text if there is none.
    Raises:
        ValueError: if a stop string is empty.
    Lesson: 09.
    """
    found = [(text.find(stop), stop) for stop in _not_empty(stops)]
    ends = [(place + len(stop), place) for place, stop in found if place >= 0]
    return text[: min(ends)[1]] if ends else text


def length_held_back(text: str, stops: Iterable[str]) -> int:
    r"""Say how much of a text's end may be the beginning of a stop string, and can't be shown yet.

    Args:
        text: without a stop string in it.
        stops: strings, none empty.
    Returns: the length of the longest end of the text that begins some stop string; 0 if there is none.
    Raises:
        ValueError: if a stop string is empty.
    Lesson: 09.
    """
    beginnings = (stop[:n] for stop in _not_empty(stops) for n in range(1, len(stop)))
    return max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)


def stop_at(pieces: Iterable[str], stops: Collection[str]) -> Iterator[str]:
    r"""Pass a text on piece by piece, and end before the first stop string in it.

    A stop string may begin in one piece and end in another: what may be its beginning waits for the next piece.

    Args:
        pieces: a text in pieces, such as `stream_text` yields; no more are taken than are needed.
        stops: strings, none empty; none at all = pass everything on.
    Returns: an iterator over pieces, none of them empty; joined, they are `cut_at_stop` of the whole.
    Raises:
        ValueError: if a stop string is empty.
    Lesson: 09.
    """
    waiting = ""
    for piece in pieces:
        waiting += piece
        kept = cut_at_stop(waiting, stops)
        if kept != waiting:
            if kept:
                yield kept
            return
        n_shown = len(waiting) - length_held_back(waiting, stops)
        if n_shown:
            yield waiting[:n_shown]
        waiting = waiting[n_shown:]
    if waiting:
        yield waiting


def at_least(min_new_tokens: int, stop_ids: Iterable[int], prompt_len: int) -> Processor:
    r"""Make a processor that forbids the stop tokens until enough has been written.

    Args:
        min_new_tokens: how many tokens must come before a stop token.
        stop_ids: the tokens to forbid.
        prompt_len: T of the prompts, padding included.
    Returns: a function of (token_ids, logits), as `generate` takes.
    Lesson: 09.
    """
    forbidden = torch.tensor(sorted(stop_ids), dtype=torch.int64)

    def forbid_early_stop(token_ids: Tensor, logits: Tensor) -> Tensor:
        if token_ids.shape[1] - prompt_len >= min_new_tokens:
            return logits
        return logits.index_fill(1, forbidden.to(logits.device), float("-inf"))

    return forbid_early_stop


def _not_empty(stops: Iterable[str]) -> list[str]:
    stops = list(stops)
    if "" in stops:
        raise ValueError("stops has an empty string, which is in every text at once; leave it out")
    return stops
