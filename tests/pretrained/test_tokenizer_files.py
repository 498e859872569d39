r"""The tokenizers of exported models, as transformers reads them: the same ids for the same text."""

import functools
import json
import unicodedata
from pathlib import Path

import gguf
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from minillm.pretrained.to_gguf import to_gguf
from minillm.pretrained.to_hf import to_hf
from minillm.pretrained.tokenizer_files import spelled
from minillm.text.bpe import BPETokenizer
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer
from tests.pretrained.random_llama import random_llama

TEXT = """It's 1999, they'll see: "naïve" cafés cost 12.50 € — Привет, 你好世界 🙂🙂!\n\n\tdef f(x_1):\n      return 1
  # ½ of Ⅷ, they've said, and we'd not   \r\n don't 'tis _private__name_ 1234567 αβγ 日本語 ١٢٣\n""" * 3
# Python's own tables of characters may be older than those of others: a character that it does not know is not asked.
KNOWN = st.characters(exclude_categories=["Cs", "Cn"])
PIECES = st.lists(st.one_of(
    st.text(KNOWN, max_size=12), st.sampled_from(TEXT.split(" ")), st.sampled_from([
        "  ", "\n\n", " \t ", "'ll", "'S", "_", "x_1", "12", " 3", "½", "Ⅷ", "\x1c", "\x85", "\u3000", "你好", "🙂",
        "e\u0301", "a" * 70, " " * 130, "!" * 66, "0" * 65, "<|endoftext|>", "<|im_end|>", "<think>", "[PAD1]", "the",
        " they", "Ġ", "\x00", "\ufeff", "\u200d"])), max_size=8).map("".join)


@pytest.fixture(scope="module", params=[0, 300], ids=["bytes", "merges"])
def both(request, tmp_path_factory):
    r"""One of our tokenizers, what transformers reads in its folder, and in its GGUF file, which needs merges."""
    ours = BPETokenizer.from_text(TEXT, 256 + request.param) if request.param else ByteTokenizer()
    folder = tmp_path_factory.mktemp("tokenizer")
    model = random_llama(request.param, vocab_size=ours.vocab_size + 5)
    to_hf(model, ours, folder / "hf")
    exported = to_gguf(model, ours, folder / "gguf")
    assert ("GPT-2's" if request.param else "without merges") in exported.notes[0]
    read = transformers.AutoTokenizer.from_pretrained
    in_file = read(folder / "gguf", gguf_file=exported.files[0].name) if request.param else None
    return ours, read(folder / "hf"), in_file


@given(text=PIECES)
def test_a_folder_s_ids_are_ours(both, text):
    ours, theirs, _ = both
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.encode(text) == ids, "nothing is put before or behind"
    assert theirs.decode(ids) == text == ours.decode(ids)


@given(text=st.text(KNOWN, max_size=60).filter(
    lambda text: not any(unicodedata.category(c) in ("Nl", "No") or c in "\x1c\x1d\x1e\x1f" for c in text)))
def test_a_file_s_ids_are_ours_but_for_rare_characters(both, text):
    ours, _, theirs = both
    assert theirs is None or theirs.encode(text, add_special_tokens=False) == ours.encode(text)


def test_the_folder_says_what_it_is(both):
    ours, theirs, _ = both
    assert len(theirs) == ours.vocab_size and theirs.model_max_length == 48
    assert theirs.bos_token is None and theirs.eos_token is None and theirs.chat_template is None


@pytest.fixture(scope="module", params=["gpt-2", "smollm"])
def byte_level(request, tmp_path_factory):
    r"""A tokenizer as real models have it, the folder of its export, and what the gguf library reads in its file."""
    spelling, _ = spelled(BPETokenizer.from_text(TEXT, 400))
    tokens = [token for token in spelling.tokens if token not in ("\u0100", "ÿ")]  # two bytes have no token
    n = len(tokens)
    ours = ByteLevelBPE(
        [*tokens, "<|im_start|>", "<|im_end|>", "<think>"], spelling.merges, pre_tokenizer=request.param,
        special_ids=[n, n + 1], whole_ids=[n + 2], bos_id=n, eos_id=n + 1, unk_id=5, chat_template="{{ 'a' }}",
        adds_bos=request.param == "gpt-2")
    folder = tmp_path_factory.mktemp("byte_level")
    model = random_llama(1, vocab_size=ours.vocab_size)
    assert not to_hf(model, ours, folder / "hf").notes
    exported = to_gguf(model, ours, folder / "gguf")
    assert not exported.notes
    fields = gguf.GGUFReader(exported.files[0]).fields
    return ours, folder / "hf", {name: field.contents() for name, field in fields.items()}


@given(text=PIECES)
def test_byte_level_ids_are_ours(byte_level, text):
    ours, folder, _ = byte_level
    theirs = read_once(folder)
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    begin = [ours.bos_id] if ours.adds_bos else []
    assert theirs.encode(text) == begin + ours.encode(text)


def test_byte_level_files_say_all(byte_level):
    ours, folder, metadata = byte_level
    read = ByteLevelBPE.from_tokenizer_json(
        *(json.loads((folder / f"tokenizer{name}.json").read_text(encoding="utf-8")) for name in ("", "_config")))
    assert read.to_dict() == ours.to_dict()
    without_unk = {name: value for name, value in ours.to_dict().items() if name != "unk_id"}  # see from_gguf
    assert ByteLevelBPE.from_gguf(metadata).to_dict() == without_unk
    assert metadata["tokenizer.ggml.unknown_token_id"] == 5
    theirs = read_once(folder)
    assert (theirs.bos_token, theirs.eos_token) == ("<|im_start|>", "<|im_end|>") and theirs.pad_token is None
    assert theirs.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "a"


@functools.cache
def read_once(folder: Path):
    r"""The tokenizer that transformers reads in a folder."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_tokens_that_files_cannot_tell_apart():
    tokenizer = BPETokenizer({(97, 98): 256, (98, 99): 257, (256, 99): 258, (97, 257): 259})
    spelling, (note,) = spelled(tokenizer)
    assert spelling is None and "'abc'" in note and "token ids" in note


def test_characters_are_ids_only():
    spelling, (note,) = spelled(CharTokenizer("abc"))
    assert spelling is None and "CharTokenizer" in note and "token ids" in note
