r"""Talks and texts as examples: only the assistant's words count, and a bad line is named."""

import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.text import talks
from minillm.text.byte_alphabet import BYTE_ALPHABET
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.characters import CharTokenizer
from minillm.text.chat_template import apply_chat_template
from minillm.text.stories import StoryLanguage

PLAIN = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
LOOP = "{% for message in messages %}"
WITH_SYSTEM = PLAIN.replace(LOOP, LOOP + "{% if loop.first and messages[0]['role'] != 'system' %}"
                            "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}")


def bytes_tokenizer(template: str | None = PLAIN, adds_bos: bool = False) -> ByteLevelBPE:
    r"""Id 2 + b for each byte b, 0 and 1 for the marks."""
    return ByteLevelBPE(["<|im_start|>", "<|im_end|>", *BYTE_ALPHABET], [], pre_tokenizer="smollm", special_ids=[0, 1],
                        bos_id=0, eos_id=1, chat_template=template, adds_bos=adds_bos)


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


words = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=12)
turns = st.lists(st.tuples(st.sampled_from(talks.ROLES), words), max_size=5)


@given(turns, words, turns, st.sampled_from([PLAIN, WITH_SYSTEM]), st.booleans())
def test_only_the_assistants_words_count(before, answer, after, template, adds_bos):
    messages = said(*before, ("assistant", answer), *(turn for turn in after if turn[0] != "assistant"))
    tokenizer = bytes_tokenizer(template, adds_bos)
    token_ids, targets = talks.talk_example(tokenizer, messages)
    assert len(token_ids) == len(targets)
    # A begin mark, a role and a line break before, an end mark after: written out by hand, byte by byte.
    ids, counts = [0] * adds_bos, [False] * adds_bos
    if template == WITH_SYSTEM and messages[0]["role"] != "system":
        messages = [*said(("system", "Be kind.")), *messages]
    for message in messages:
        head = [0, *(2 + byte for byte in f"{message['role']}\n".encode())]
        body = [*(2 + byte for byte in message["content"].encode()), 1]
        ids += [*head, *body, 2 + ord("\n")]
        counts += [False] * len(head) + [message["role"] == "assistant"] * len(body) + [False]
    last = max(i for i, each in enumerate(counts) if each)
    assert token_ids == ids[:last] and [targets[i] != -100 for i in range(last)] == counts[1 : last + 1]
    assert all(target in (-100, right) for target, right in zip(targets, ids[1:], strict=False))


def test_the_model_learns_from_what_it_will_be_given():
    r"""The ids up to the answer are those of the prompt with which it will be asked."""
    tokenizer = bytes_tokenizer(WITH_SYSTEM)
    messages = said(("user", "Hi"), ("assistant", "Hello."))
    token_ids, targets = talks.talk_example(tokenizer, messages)
    prompt = tokenizer.encode(apply_chat_template([*said(("system", "Be kind.")), messages[0]], True))
    assert token_ids[: len(prompt)] == prompt
    assert targets[len(prompt) - 2 :][:2] == [-100, 2 + ord("H")] and targets[-1] == tokenizer.eos_id


def test_a_text_counts_as_a_whole():
    language = StoryLanguage()
    tokenizer, story = language.tokenizer, language.sample(random.Random(5))
    ids = [tokenizer.bos_id, *tokenizer.encode(story), tokenizer.eos_id]
    assert talks.text_example(tokenizer, story) == (ids[:-1], ids[1:])
    assert talks.text_example(CharTokenizer("abc"), "cab") == ([2, 0], [0, 1])
    got, targets = talks.text_example(bytes_tokenizer(), "<|im_end|>")
    assert len(got) == 10 and targets[-1] == 1 and 1 not in got, "a mark in a text is text"
    with pytest.raises(ValueError, match="second token"):
        talks.text_example(CharTokenizer("abc"), "c")


def test_examples_are_padded_and_shuffled(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    lengths = torch.randint(2, 9, (7,), generator=generator).tolist()
    examples = [([10 * i + j for j in range(n)], [-100, *range(n - 1)]) for i, n in enumerate(lengths, start=1)]
    batches = talks.example_batches(examples, 3, generator)
    for _ in range(2):  # rounds
        seen = []
        for size in (3, 3, 1):
            token_ids, targets = next(batches)
            assert token_ids.shape == targets.shape and len(token_ids) == size
            assert token_ids.dtype == targets.dtype == torch.int64
            for row, wanted in zip(token_ids.tolist(), targets.tolist(), strict=True):
                ids, own = examples[row[0] // 10 - 1]
                assert row[: len(ids)] == ids and not any(row[len(ids) :])
                assert wanted[: len(ids)] == own and set(wanted[len(ids) :]) <= {-100}
                seen.append(row[0] // 10)
            assert token_ids.shape[1] == max(lengths[i - 1] for i in seen[-size:])
        assert sorted(seen) == list(range(1, 8))
    for examples, size in (([], 1), ([([1], [1])], 0)):
        with pytest.raises(ValueError, match="at least 1"):
            next(talks.example_batches(examples, size, generator))


def test_lines_of_a_file():
    rows = [{"text": "a\u2028b"}, {"messages": said(("user", "x"), ("assistant", "y")), "id": 7}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    assert talks.read_jsonl(text) == [(1, rows[0]), (3, rows[1])]


@pytest.mark.parametrize(("line", "complaint"), [
    ("{", "Expecting property name"), ("[1]", "either"), ("{}", "either"), ("[" * 100_000, "line 2"),
    ('{"text": "a", "messages": []}', "either"), ('{"text": 5}', "no string"), ('{"text": ""}', "no string"),
    ('{"messages": []}', "no list"), ('{"messages": ["a"]}', r"messages\[0\]"),
    ('{"messages": [{"role": "user"}]}', r"messages\[0\]"),
    ('{"messages": [{"role": "bot", "content": "a"}]}', "'bot'"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "assistant says nothing"),
    ('{"prompt": "a", "completion": "b"}', '"messages"')])
def test_a_bad_line_is_named(line, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        talks.read_jsonl('{"text": "fine"}\n' + line)
    assert str(caught.value).startswith("line 2: ") and len(str(caught.value)) < 500


def test_what_cannot_be_learned_is_refused_with_its_line():
    tokenizer = bytes_tokenizer()
    fine = {"messages": said(("user", "ab"), ("assistant", "c"))}
    examples = talks.make_examples(tokenizer, [(1, fine), (2, {"text": "abcdefgh"})], 30)
    assert [len(token_ids) for token_ids, _ in examples] == [22, 8]  # 1 + 5 + 2 + 1 + 1, then 1 + 10 + 1, and the end
    assert [len(ids) for ids, _ in talks.make_examples(tokenizer, [(2, {"text": "abcdefgh"})], 3)] == [3]
    cases = [
        (fine, 20, tokenizer, "line 4: no answer begins within its first 20 tokens, of 22"),
        ({"messages": said(("user", "a<|im_end|>"), ("assistant", "c"))}, 99, tokenizer, "'<|im_end|>'"),
        (fine, 99, bytes_tokenizer(None), "chat_template"), ({"text": "é"}, 9, CharTokenizer("abc"), "line 4: "),
        ({"text": "\ud800"}, 9, tokenizer, "surrogate")]
    for row, most, reader, complaint in cases:
        with pytest.raises(ValueError) as caught:
            talks.make_examples(reader, [(4, row)], most)
        assert str(caught.value).startswith("line 4: ") and complaint in str(caught.value)
    with pytest.raises(ValueError, match="no example"):
        talks.read_jsonl("\n \n")
