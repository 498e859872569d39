r"""How a talk is written as one text, so that a model sees who said what."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

BEGIN = "<|im_start|>"
END = "<|im_end|>"

# The Jinja templates that are known, without white space outside quotes: one message after another, and, in some,
# first a system message, if the talk does not begin with one of its own.
_KNOWN_TEMPLATE = re.compile(
    r"\{%formessageinmessages%\}"
    r"(?:\{%ifloop\.firstandmessages\[0\]\['role'\]!='system'%\}"
    r"\{\{'<\|im_start\|>system\n(?P<system>[^']*)<\|im_end\|>\n'\}\}\{%endif%\})?"
    r"\{\{'<\|im_start\|>'\+message\['role'\]\+'\n'\+message\['content'\]\+'<\|im_end\|>'\+'\n'\}\}"
    r"\{%endfor%\}"
    r"\{%ifadd_generation_prompt%\}\{\{'<\|im_start\|>assistant\n'\}\}\{%endif%\}"
)


def apply_chat_template(
    messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, default_system: str | None = None
) -> str:
    r"""Write a talk in ChatML.

    Each message is a begin mark with the name of its role, a line break, what was said, an end mark and a line break.
    A model that was trained on such texts goes on, after the begin of an answer, with the answer and an end mark. The
    marks must become single special tokens: encode the text with `special=True`.

    Args:
        messages: in order; each has a "role", such as "system", "user" or "assistant", and a "content".
        add_generation_prompt: whether to begin the assistant's answer.
        default_system: what the system says if the first message is not the system's; None = nothing.
    Returns: the text; no messages give no text but the begin of the answer.
    Raises:
        ValueError: if a message lacks its role or content, or they are not strings.
    Source: OpenAI 2023, ChatML; as in the template of SmolLM2-Instruct (Allal et al. 2025).
    Lesson: 16.
    """
    for i, message in enumerate(messages):
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                raise ValueError(f"messages[{i}][{name!r}] is {message.get(name)!r}; give a string")
    said = [(message["role"], message["content"]) for message in messages]
    if said and said[0][0] != "system" and default_system is not None:
        said = [("system", default_system), *said]
    text = "".join(f"{BEGIN}{role}\n{content}{END}\n" for role, content in said)
    return text + f"{BEGIN}assistant\n" if add_generation_prompt else text


def read_default_system(template: str) -> str | None:
    r"""What a model's own template lets the system say when the talk does not begin with it.

    A template is a small program. It is not run here: it is recognised, or refused.

    Args:
        template: in Jinja, as the model's file holds it.
    Returns: the text for `apply_chat_template`; None = the template adds no system message.
    Raises:
        ValueError: if the template is none that `apply_chat_template` can stand for.
    Lesson: 16.
    """
    plain = template.replace("\\n", "\n").replace("%}\n", "%}")  # Jinja drops the line break after a block
    outside = re.search(r"^\s|[%}]\}\s|\s\{[%{]|\s$", re.sub(r"'[^']*'", "''", plain))  # it would be written out
    parts = re.split(r"('[^']*')", plain)
    compact = "".join(part if i % 2 else re.sub(r"\s", "", part) for i, part in enumerate(parts))
    match = _KNOWN_TEMPLATE.fullmatch(compact)
    if match is None or outside or "\\" in plain:
        raise ValueError(f"template={template[:200]!r} is not one of the ChatML templates that are known; write the "
                         "messages as text yourself, and let the model go on from there")
    return match["system"]


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> str:
    r"""Write a talk as the model of a tokenizer was trained to read it.

    Args:
        tokenizer: with a `chat_template`.
        messages: as in `apply_chat_template`.
        add_generation_prompt: whether to begin the assistant's answer.
    Returns: the text.
    Raises:
        ValueError: if the tokenizer has no template, or one that is not known.
    Lesson: 16.
    """
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        raise ValueError("tokenizer has no chat_template: its model does not answer; let it go on from a text")
    return apply_chat_template(messages, add_generation_prompt, read_default_system(template))
