r"""Examples to learn from: talks of which only the answers count, or plain texts, one a line of a file.

    {"messages": [{"role": "user", "content": "What do bees make?"}, {"role": "assistant", "content": "Honey."}]}
    {"text": "The ferry leaves at nine."}
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from minillm.text import chat_template
from minillm.text.batches import IGNORED

ROLES = ("system", "user", "assistant")
Example = tuple[list[int], list[int]]  # token ids, and for each of them the one that comes next, or -100
SHAPE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]} or {"text": "..."}'


def read_jsonl(text: str) -> list[tuple[int, dict[str, Any]]]:
    r"""The examples of a file, one JSON object a line; empty lines are passed over.

    Args:
        text: of the file.
    Returns: pairs of a line's number, from 1, and its object, which holds "messages" or "text".
    Raises:
        ValueError: if a line is no such object, with its number; or if there is none.
    Lesson: 13.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a string may hold other line ends
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            _require_example(row)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}; it begins {line[:60]!r}; each line is {SHAPE}") from None
        rows.append((number, row))
    if not rows:
        raise ValueError(f"text holds no example; each line is {SHAPE}")
    return rows


def talk_example(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> Example:
    r"""A talk as the model reads it, with targets at the assistant's words alone.

    What the system and the user said is read, and not learned: the model is to answer questions, not to ask them. The
    end mark of each answer counts too, or the model would never learn to stop.

    Args:
        tokenizer: with a chat template.
        messages: in order, one at least the assistant's; what comes after its last answer is left out.
    Returns: token ids and targets, of the same length.
    Raises:
        ValueError: if the tokenizer has no known template, nobody answers, or a message holds one of the tokenizer's
            marks.
    Source: Ouyang et al. 2022, InstructGPT, section 3.5 (SFT on demonstrations); the mask is that of common practice.
    Lesson: 13.
    """
    _require_no_marks(tokenizer, messages)
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        raise ValueError("tokenizer has no chat_template: its model does not answer; give {\"text\": ...} instead")
    system = chat_template.read_default_system(template)
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    token_ids, counted = _begin(tokenizer), [False] * len(_begin(tokenizer))
    whole, at = chat_template.apply_chat_template(messages), 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = len(chat_template.apply_chat_template(messages[:i], add_generation_prompt=True))
        end = start + len(message["content"]) + len(chat_template.END)
        # Cut where the model begins to write, as it will be when it is asked.
        for piece, counts in ((whole[at:start], False), (whole[start:end], True)):
            ids = tokenizer.encode(piece)
            token_ids, counted = token_ids + ids, counted + [counts] * len(ids)
        at = end
    if not any(counted):
        raise ValueError("messages: the assistant says nothing, so there is nothing to learn; add an answer")
    return _shifted(token_ids, counted)


def text_example(tokenizer: Any, text: str) -> Example:
    r"""A text as the model reads it, from its begin token to its end token where the tokenizer has them; all counts.

    Args:
        tokenizer: any of ours.
        text: two tokens or more, the end token included.
    Returns: token ids and targets, of the same length.
    Raises:
        ValueError: if there is no second token to foretell.
    Lesson: 13.
    """
    plain = {"special": False} if hasattr(tokenizer, "special_ids") else {}  # a mark in a text is text
    end = [tokenizer.eos_id] if hasattr(tokenizer, "eos_id") else []
    token_ids = _begin(tokenizer) + tokenizer.encode(text, **plain) + end
    if len(token_ids) < 2:
        raise ValueError(f"text={text!r}: has no second token to foretell; give more")
    return _shifted(token_ids, [True] * len(token_ids))


def make_examples(tokenizer: Any, rows: Sequence[tuple[int, Mapping[str, Any]]], max_tokens: int) -> list[Example]:
    r"""All examples of a file, cut off where they are too long.

    Args:
        tokenizer: of the model.
        rows: from `read_jsonl`.
        max_tokens: of an example at most.
    Returns: an example a row.
    Raises:
        ValueError: if a row cannot be used, with its line number.
    Lesson: 13.
    """
    examples = []
    for number, row in rows:
        try:
            made = talk_example(tokenizer, row["messages"]) if "messages" in row else text_example(
                tokenizer, row["text"])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        cut = made[0][:max_tokens], made[1][:max_tokens]
        if all(target == IGNORED for target in cut[1]):
            raise ValueError(f"line {number}: no answer begins within its first {max_tokens} tokens, of {len(made[0])};"
                             " shorten the talk, or allow more tokens")
        examples.append(cut)
    return examples


def pad_examples(examples: Sequence[Example]) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    r"""Examples under each other, filled up on the right with ids that no real token sees and no loss counts.

    Args:
        examples: one at least.
    Returns: token ids and targets, (B, T) each, int64, T the length of the longest.
    Lesson: 13.
    """
    longest = max(len(token_ids) for token_ids, _ in examples)
    token_ids, targets = (
        torch.tensor([each[part] + [fill] * (longest - len(each[part])) for each in examples])
        for part, fill in ((0, 0), (1, IGNORED)))
    return token_ids, targets


def example_batches(
    examples: Sequence[Example], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]]:
    r"""Batches without end: all examples in a new order, again and again.

    Args:
        examples: one at least.
        batch_size: examples in a batch; where fewer are left of a round, fewer.
        generator: the source of chance; it is advanced.
    Yields: token ids and targets, (B, T) each, int64.
    Raises:
        ValueError: if there is no example, or batch_size is less than 1.
    Lesson: 13.
    """
    if not examples or batch_size < 1:
        raise ValueError(f"examples: {len(examples)}, batch_size={batch_size}: both must be at least 1")
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield pad_examples([examples[i] for i in order[start : start + batch_size]])


def _require_example(row: Any) -> None:
    if not isinstance(row, dict) or ("messages" in row) == ("text" in row):
        raise ValueError('it is no object with either "messages" or "text"')
    if "text" in row:
        if not isinstance(row["text"], str) or not row["text"]:
            raise ValueError('"text" is no string with something in it')
        return
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError('"messages" is no list with something in it')
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f'messages[{i}] has no "content" that is a string')
        if message.get("role") not in ROLES:
            raise ValueError(f'messages[{i}] has the role {message.get("role")!r}; use one of {", ".join(ROLES)}')
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("the assistant says nothing, so there is nothing to learn")


def _require_no_marks(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> None:
    r"""A mark inside a message would speak in another's name; nobody who writes examples means that."""
    marks = [tokenizer.tokens[i] for i in getattr(tokenizer, "special_ids", ())]
    for i, message in enumerate(messages):
        if found := next((mark for mark in marks if mark in message["content"]), None):
            raise ValueError(f"messages[{i}] holds the mark {found!r}, which only the template may write; take it out")


def _begin(tokenizer: Any) -> list[int]:
    begins = getattr(tokenizer, "adds_bos", True) and hasattr(tokenizer, "bos_id")
    return [tokenizer.bos_id] if begins else []


def _shifted(token_ids: list[int], counted: list[bool]) -> Example:
    targets = [i if counts else IGNORED for i, counts in zip(token_ids[1:], counted[1:], strict=True)]
    return token_ids[:-1], targets
