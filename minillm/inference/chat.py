r"""A talk with a model that was trained to answer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minillm.inference.text import encode_prompt, stream_text
from minillm.text import chat_template

MAX_REPLY = 512  # tokens of an answer, where nothing else is said


def stream_reply(
    model: Any, tokenizer: Any, messages: Sequence[Mapping[str, Any]], max_new_tokens: int | None = None, **choices: Any
) -> Iterator[str]:
    r"""Let the model answer, and yield the answer in pieces as it comes.

    Where the talk has become too long for the model, the oldest messages are left out; what the system said first
    stays.

    Args:
        model: in evaluation mode.
        tokenizer: of the model, with a chat template.
        messages: the talk so far, the user's message last.
        max_new_tokens: tokens of the answer at most; None = 512, or a quarter of the model's positions if that is less.
        choices: temperature, top_k, top_p, min_p, typical_p, generator and steering, as `stream_text` takes them.
    Returns: an iterator over pieces of text.
    Raises:
        ValueError: if the last message alone is too long, or the tokenizer has no known chat template.
    Lesson: 16.
    """
    max_seq_len = model.config.max_seq_len
    n_new = max_new_tokens or min(MAX_REPLY, max(1, max_seq_len // 4))
    kept = fitting_messages(tokenizer, messages, max_seq_len - n_new + 1)
    prompt = chat_template.chat_text(tokenizer, kept, add_generation_prompt=True)
    yield from stream_text(model, tokenizer, prompt, n_new, **choices)


def fitting_messages(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], max_tokens: int
) -> list[Mapping[str, Any]]:
    r"""The end of a talk that fits, with what the system said first.

    Args:
        tokenizer: with a chat template.
        messages: the talk.
        max_tokens: for the whole text, the begin of the answer included.
    Returns: messages in order; the last one is always among them, and the first that is not the system's is the
        user's, if there is one of the user's that fits.
    Raises:
        ValueError: if the system's and the last message alone are too long.
    Lesson: 16.
    """
    system = [messages[0]] if messages and messages[0].get("role") == "system" else []
    rest = list(messages[len(system) :])
    starts = [i for i, message in enumerate(rest) if message.get("role") == "user" or i == len(rest) - 1] or [0]
    for start in starts:
        kept = [*system, *rest[start:]]
        text = chat_template.chat_text(tokenizer, kept, add_generation_prompt=True)
        n_tokens = len(encode_prompt(tokenizer, text, max_seq_len=2**62))
        if n_tokens <= max_tokens:
            return kept
    raise ValueError(f"messages: the last one alone makes {n_tokens} tokens, and there is room for {max_tokens}; "
                     "shorten it, or ask for fewer new tokens")
