r"""Texts longer than a model reads at once: chunks with overlap, a tree of results, a window that slides."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Part = TypeVar("Part")
Result = TypeVar("Result")


class Window(NamedTuple):
    r"""One look at a long text: tokens start to end are read, those from counted_from on are counted."""

    start: int
    counted_from: int
    end: int


def chunk_spans(n_tokens: int, chunk_len: int, overlap: int = 0) -> list[tuple[int, int]]:
    r"""Where to cut a text into chunks of which each repeats the end of the one before.

        n_tokens 10, chunk_len 4, overlap 1:    0 1 2 3
                                                      3 4 5 6
                                                            6 7 8 9

    A stretch of at most overlap + 1 tokens lies whole in some chunk, wherever it stands. The price is that
    chunk_len / (chunk_len - overlap) times the text is read.

    Args:
        n_tokens: of the text, at least 1.
        chunk_len: tokens in a chunk, at least 1; the last chunk may be shorter.
        overlap: tokens that a chunk shares with the next, at least 0 and less than chunk_len.
    Returns: start and end of each chunk, the end not included; together they cover the text.
    Raises:
        ValueError: if an argument is out of range.
    Source: the arithmetic of sliding windows; splitters of retrieval libraries cut like this.
    Lesson: 10.
    """
    if n_tokens < 1:
        raise ValueError(f"n_tokens={n_tokens}: there is nothing to cut, give a text of at least one token")
    if not 0 <= overlap < chunk_len:
        raise ValueError(f"overlap={overlap}: use 0 to chunk_len - 1 = {chunk_len - 1}, or no chunk gets any further")
    starts = range(0, max(n_tokens - overlap, 1), chunk_len - overlap)
    return [(start, min(start + chunk_len, n_tokens)) for start in starts]


def cut_share(n_tokens: int, chunk_len: int, overlap: int, fact_len: int) -> float:
    r"""The share of places at which a fact of fact_len tokens would lie whole in no chunk.

    Args:
        n_tokens: of the text.
        chunk_len: tokens in a chunk.
        overlap: tokens that a chunk shares with the next.
        fact_len: tokens of the fact, 1 to n_tokens.
    Returns: 0 to 1; 0 if fact_len is at most overlap + 1.
    Raises:
        ValueError: if an argument is out of range.
    Source: counting.
    Lesson: 10.
    """
    if not 1 <= fact_len <= n_tokens:
        raise ValueError(f"fact_len={fact_len}: use 1 to n_tokens={n_tokens}")
    places = range(n_tokens - fact_len + 1)
    whole: set[int] = set()
    for start, end in chunk_spans(n_tokens, chunk_len, overlap):
        whole.update(range(start, end - fact_len + 1))
    return 1 - len(whole) / len(places)


def packed_spans(piece_lens: Sequence[int], chunk_len: int) -> list[tuple[int, int]]:
    r"""Cut between pieces only (sentences, stories): as many whole pieces a chunk as have room in it.

    Args:
        piece_lens: tokens of each piece, in the order of the text, each at least 1.
        chunk_len: tokens in a chunk at most.
    Returns: start and end of each chunk, in tokens; nothing is cut and nothing read twice.
    Raises:
        ValueError: if there is no piece, or one that fits into no chunk.
    Source: first fit in the order of the text.
    Lesson: 10.
    """
    if not piece_lens:
        raise ValueError("piece_lens is empty: give at least one piece")
    spans = [(0, 0)]
    for number, length in enumerate(piece_lens):
        if not 1 <= length <= chunk_len:
            raise ValueError(f"piece_lens[{number}]={length}: use 1 to chunk_len={chunk_len}, or cut that piece first")
        start, end = spans[-1]
        if end + length - start > chunk_len:
            spans.append((end, end + length))
        else:
            spans[-1] = (start, end + length)
    return spans


def map_reduce(
    parts: Sequence[Part],
    read: Callable[[Part], Result],
    merge: Callable[[list[Result]], Result],
    fan_in: int = 4,
) -> list[list[Result]]:
    r"""Read each part by itself, then merge neighbouring results, level by level, until one is left.

        fan_in 3:   parts    a  b  c | d  e  f | g
                    level 0  A  B  C | D  E  F | G      read
                    level 1    ABC   |   DEF   | G      merge
                    level 2       ABCDEFG               merge

    No call sees more than one part or fan_in results, and the calls of a level do not wait for each other.

    Args:
        parts: of the text, at least one.
        read: part -> result.
        merge: results of neighbours, in their order, two to fan_in of them -> one result of the same kind.
        fan_in: results that are merged at once, at least 2.
    Returns: the results of every level; the last level holds the one for the whole text.
    Raises:
        ValueError: if there is no part, or fan_in is less than 2.
    Source: Dean and Ghemawat 2004, MapReduce, section 2; as a tree of summaries: Wu et al. 2021, Recursively
        Summarizing Books with Human Feedback, section 2.1.
    Lesson: 10.
    """
    if not parts:
        raise ValueError("parts is empty: give at least one part of a text")
    if fan_in < 2:
        raise ValueError(f"fan_in={fan_in}: use 2 or more, or the results never become fewer")
    levels = [[read(part) for part in parts]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        groups = [below[i : i + fan_in] for i in range(0, len(below), fan_in)]
        levels.append([merge(group) if len(group) > 1 else group[0] for group in groups])
    return levels


def two_level_pairs(seq_len: int, chunk_len: int) -> tuple[int, int]:
    r"""Scores that attention computes in two levels: between tokens of a chunk, then between chunks.

    Args:
        seq_len: T, at least 1.
        chunk_len: tokens in a chunk, divides seq_len.
    Returns: pairs within chunks, T * chunk_len, and between chunks, (T / chunk_len)^2; plain attention has T^2.
    Raises:
        ValueError: if chunk_len does not divide seq_len.
    Source: Yang et al. 2016, Hierarchical Attention Networks, section 2.2, with self-attention on both levels.
    Lesson: 10.
    """
    if chunk_len < 1 or seq_len < 1 or seq_len % chunk_len:
        raise ValueError(f"chunk_len={chunk_len}: use a divisor of seq_len={seq_len}")
    return seq_len * chunk_len, (seq_len // chunk_len) ** 2


def sliding_windows(n_tokens: int, window: int, stride: int) -> list[Window]:
    r"""Slide a window over a text so that each token is counted once, with many tokens before it.

        n_tokens 8, window 4, stride 2:    [0 1 2 3]             counted: 0 1 2 3
                                            . .[2 3 4 5]                  4 5
                                            . . . .[4 5 6 7]              6 7

    Every token but those of the first window has at least window - stride tokens before it in the window that counts
    it. A small stride gives more of them and reads more: about window / stride times the text.

    Args:
        n_tokens: of the text, at least 1.
        window: tokens that are read at once, at least 1.
        stride: how far it moves, 1 to window.
    Returns: the windows, all of the same length; the last one ends with the text and may move less.
    Raises:
        ValueError: if an argument is out of range.
    Source: the strided evaluation of Hugging Face's guide "Perplexity of fixed-length models".
    Lesson: 10.
    """
    if n_tokens < 1:
        raise ValueError(f"n_tokens={n_tokens}: give a text of at least one token")
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride}: use 1 to window={window}; a longer one would leave tokens out")
    size = min(window, n_tokens)
    ends = [*range(size, n_tokens, stride), n_tokens]
    counted = [0, *ends[:-1]]
    return [Window(end - size, first, end) for first, end in zip(counted, ends, strict=True)]


def sliding_nats(
    model: Any, token_ids: Int[Tensor, "T"], window: int, stride: int, batch_size: int = 64
) -> Float[Tensor, "T_less_1"]:
    r"""How surprised a model is by each token of a text of any length, while it sees at most `window` at once.

    Args:
        model: token ids -> logits, in evaluation mode.
        token_ids: the text, (T,) int64, at least two tokens.
        window: tokens that the model is given at once.
        stride: how far the window moves; 1 = each token has as much before it as there can be.
        batch_size: windows that go through the model together.
    Returns: nats, (T - 1,) float32, on the CPU; the first token has nothing before it and is left out.
    Raises:
        ValueError: if the text has fewer than two tokens, or as in `sliding_windows`.
    Source: as `sliding_windows`.
    Lesson: 10.
    """
    if len(token_ids) < 2:
        raise ValueError(f"token_ids has {len(token_ids)} tokens: give at least two, the first has nothing before it")
    windows = sliding_windows(len(token_ids) - 1, window, stride)
    rows = torch.stack([token_ids[look.start : look.end + 1] for look in windows])
    device, nats = next(model.parameters()).device, []
    with torch.inference_mode():
        for batch in rows.split(batch_size):
            logits = model(batch[:, :-1].to(device)).float().flatten(0, 1)
            each = F.cross_entropy(logits, batch[:, 1:].flatten().to(device), reduction="none")
            nats.append(each.view(len(batch), -1).cpu())
    counted = [row[look.counted_from - look.start :] for row, look in zip(torch.cat(nats), windows, strict=True)]
    return torch.cat(counted).clone()
