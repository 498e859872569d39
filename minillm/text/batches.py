r"""From token ids to what a training step takes: inputs, and for each position the token that comes next."""

import torch
from jaxtyping import Int64
from torch import Tensor

from minillm.text.stories import split
from minillm.text.stories.language import StoryLanguage

IGNORED = -100  # a target that the loss leaves out


def next_token_batch(
    token_ids: Int64[Tensor, " n"], seq_len: int, batch_size: int, generator: torch.Generator
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    r"""Cut random windows out of a running text.

    Every window starts at a random place, all places equally likely, and the targets are the inputs one step later: at
    each of its T positions a window asks "and what comes next?".

    Args:
        token_ids: the text, (n,), int64, at least seq_len + 1 tokens.
        seq_len: tokens in a window.
        batch_size: windows in a batch.
        generator: the source of chance; it is advanced.
    Returns: inputs and targets, (B, T) each, int64.
    Raises:
        ValueError: if seq_len or batch_size is less than 1, or the text is shorter than one window and its next token.
    Source: Bengio et al. 2003, section 2: the words before a word are what it is predicted from.
    Lesson: 01.
    """
    if seq_len < 1 or batch_size < 1:
        raise ValueError(f"seq_len={seq_len} and batch_size={batch_size} must both be at least 1")
    n_starts = len(token_ids) - seq_len
    if n_starts < 1:
        raise ValueError(
            f"token_ids has {len(token_ids)} tokens; a window of seq_len={seq_len} and its next token need "
            f"{seq_len + 1}: use a longer text or a smaller seq_len"
        )
    starts = torch.randint(n_starts, (batch_size, 1), generator=generator)
    windows = token_ids[starts + torch.arange(seq_len + 1)]
    return windows[:, :-1], windows[:, 1:]


def shift_rows(
    rows: Int64[Tensor, "B n"], pad_id: int, ignored: int = -100
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    r"""Turn padded rows into inputs and targets: the targets are the rows one step later, without the padding.

    Args:
        rows: one text a row, padded at its end, (B, T + 1), int64.
        pad_id: the id of padding.
        ignored: what stands in the targets where there is nothing to predict.
    Returns: inputs and targets, (B, T) each, int64.
    Reason: at each position a language model predicts the token that comes next.
    Lesson: 01, 07.
    """
    targets = rows[:, 1:]
    return rows[:, :-1], targets.masked_fill(targets == pad_id, ignored)


def story_batch(
    language: StoryLanguage, batch_size: int, generator: torch.Generator
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    r"""Tell fresh training stories, one a row.

    A row begins with the begin token, and its last target is the end token. No story is ever repeated on purpose, and
    none is a validation story.

    Args:
        language: the story language.
        batch_size: stories in the batch.
        generator: the source of chance; it is advanced.
    Returns: inputs and targets, (B, T) each, int64; T is `language.max_len` - 1; targets are -100 at padding.
    Lesson: 01.
    """
    rows = split.train_rows(language, batch_size, generator)
    return shift_rows(rows, language.tokenizer.pad_id)
