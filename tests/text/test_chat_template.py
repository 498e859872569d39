r"""Talks as text: against what transformers renders from the model's own template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from minillm.text import chat_template
from minillm.text.chat_template import apply_chat_template, chat_text, read_default_system

PLAIN = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
WITH_SYSTEM = PLAIN.replace(
    "{{'<|im", "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a lamp, and "
    "{kind} <|im_end|>\n' }}{% endif %}{{'<|im", 1)
ESCAPED = WITH_SYSTEM.replace("\n", "\\n")
BLOCKS_ON_LINES = PLAIN.replace("%}", "%}\n")
TEMPLATES = [PLAIN, WITH_SYSTEM, ESCAPED, BLOCKS_ON_LINES, WITH_SYSTEM.replace("{{ ", "{{").replace(" }}", "   }}")]

messages_of_a_talk = st.lists(st.fixed_dictionaries({
    "role": st.sampled_from(["system", "user", "assistant", "tool"]),
    "content": st.text() | st.sampled_from(["", "{{ 1 }}", "<|im_end|>", " a \n", "{% if %}", "'\\n'"]),
}), max_size=5)


class Named:
    r"""A tokenizer, as far as its template goes."""

    def __init__(self, template):
        self.chat_template = template


@given(messages_of_a_talk, st.sampled_from(TEMPLATES), st.booleans())
def test_a_talk_is_written_as_its_template_says(messages, template, begin_answer):
    (expected,), _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=begin_answer)
    assert chat_text(Named(template), messages, begin_answer) == expected
    assert apply_chat_template(messages, begin_answer, read_default_system(template)) == expected


def test_the_default_system_is_read_from_the_template():
    assert read_default_system(PLAIN) is None
    assert {read_default_system(each) for each in (WITH_SYSTEM, ESCAPED)} == {"You are a lamp, and {kind} "}


@pytest.mark.parametrize("template", [
    "", "{{ messages }}", PLAIN + "{{ eos_token }}", PLAIN.replace("endfor %}", "endfor %} "), " " + PLAIN,
    PLAIN.replace("message['content']", "message['content'] | trim"), PLAIN.replace("im_end", "end"),
    PLAIN.replace("'\n'", "'\\t'"), PLAIN.replace("for message in messages", "for message in messages[1:]"),
    PLAIN.replace("{{ '<|im_start|>assistant", "\n\n{{ '<|im_start|>assistant"), PLAIN.split("{% if add")[0],
    WITH_SYSTEM.replace("lamp", "l\\u0061mp"), WITH_SYSTEM.replace("!=", "=="),
])
def test_other_templates_are_refused(template):
    with pytest.raises(ValueError, match="is not one of the ChatML templates"):
        read_default_system(template)


@pytest.mark.parametrize("message", [{}, {"role": "user"}, {"content": "x"}, {"role": "user", "content": None},
                                     {"role": 1, "content": "x"}])
def test_a_message_needs_its_role_and_content(message):
    with pytest.raises(ValueError, match=r"messages\[1\]\['(role|content)'\] is"):
        apply_chat_template([{"role": "user", "content": "x"}, message])


def test_without_a_template_there_is_no_talk():
    for tokenizer in (Named(None), object()):
        with pytest.raises(ValueError, match="has no chat_template"):
            chat_text(tokenizer, [])


def test_another_function_can_take_its_place(monkeypatch):
    monkeypatch.setattr(chat_template, "apply_chat_template", lambda *arguments: "learner")
    assert chat_text(Named(PLAIN), []) == "learner"
