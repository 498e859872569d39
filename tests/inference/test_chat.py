r"""Answers in a talk: what is written before them, and what is left out of a long one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.config import preset
from minillm.inference import chat
from minillm.inference.constrained.token_texts import token_texts
from minillm.inference.generate import generate
from minillm.inference.text import encode_prompt
from minillm.model.gpt import GPT
from minillm.text.byte_alphabet import BYTE_ALPHABET
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.chat_template import apply_chat_template

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def bytes_and_marks(**changes) -> ByteLevelBPE:
    return ByteLevelBPE(
        ["<|im_start|>", "<|im_end|>", *BYTE_ALPHABET], [], pre_tokenizer="smollm", special_ids=[0, 1], bos_id=0,
        **{"eos_id": 1, "chat_template": TEMPLATE, **changes})


TOKENIZER = bytes_and_marks()
talks = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(alphabet="ab ", max_size=9)), min_size=1)


@pytest.fixture(scope="module")
def model() -> GPT:
    return GPT(preset("tiny", vocab_size=258, max_seq_len=96), torch.Generator().manual_seed(3)).eval()


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_the_answer_is_what_follows_the_talk(model):
    talk = [said("user", "hé 12"), said("assistant", "x"), said("user", "y")]
    ids = TOKENIZER.encode(apply_chat_template(talk, True))
    assert ids.count(0) == 4 and ids[0] == 0 and ids[1] != 0  # no begin token but that of the first message
    expected = generate(model, torch.tensor([ids]), 8, temperature=0.0, stop_ids=[1], pad_id=1)[0, len(ids) :].tolist()
    expected = expected[: expected.index(1)] if 1 in expected else expected
    pieces = list(chat.stream_reply(model, TOKENIZER, talk, 8, temperature=0.0))
    assert "".join(pieces) == TOKENIZER.decode(expected)
    assert "".join(chat.stream_reply(model, TOKENIZER, talk, 8, temperature=0.0)) == "".join(pieces)


def test_a_begin_token_stands_before_the_text_only_where_it_is_expected():
    assert encode_prompt(TOKENIZER, "a", 9) == TOKENIZER.encode("a")
    assert encode_prompt(bytes_and_marks(adds_bos=True), "a", 9) == [0, *TOKENIZER.encode("a")]
    with pytest.raises(ValueError, match="no begin token"):
        encode_prompt(TOKENIZER, "", 9)


@given(talks, st.booleans(), st.integers(0, 400))
def test_of_a_long_talk_the_longest_end_that_fits_is_kept(talk, has_system, max_tokens):
    system = [said("system", "be ab")] if has_system else []
    messages = [*system, *(said(*each) for each in talk)]

    def n_tokens(kept):
        return len(TOKENIZER.encode(apply_chat_template([*system, *kept], True)))

    rest = messages[len(system) :]
    fitting = [rest[i:] for i in range(len(rest)) if (rest[i]["role"] == "user" or i == len(rest) - 1)
               and n_tokens(rest[i:]) <= max_tokens]
    if fitting:
        assert chat.fitting_messages(TOKENIZER, messages, max_tokens) == [*system, *fitting[0]]
    else:
        with pytest.raises(ValueError, match=f"{n_tokens(rest[-1:])} tokens, and there is room for {max_tokens}"):
            chat.fitting_messages(TOKENIZER, messages, max_tokens)


def test_a_talk_beyond_the_models_positions_goes_on(model):
    talk = [said("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(31)]
    assert isinstance("".join(chat.stream_reply(model, TOKENIZER, talk, temperature=0.0)), str)
    with pytest.raises(ValueError, match="shorten it"):
        list(chat.stream_reply(model, TOKENIZER, [said("user", "x" * 96)]))


def test_the_name_of_a_special_token_is_no_text_to_a_pattern():
    for at_start in (True, False):
        assert token_texts(TOKENIZER, at_start) == [b"", b"", *(bytes([byte]) for byte in range(256))]
