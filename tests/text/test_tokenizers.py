"""Character and byte tokenizers, and tokenizers out of checkpoints."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.text.bpe import BPETokenizer
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer
from minillm.text.tokenizers import from_dict
from minillm.text.words import WordTokenizer


@given(st.text(max_size=100))
def test_characters_and_bytes_are_exact_on_any_text(text: str):
    characters, single_bytes = CharTokenizer.from_text(text), ByteTokenizer()
    assert characters.decode(characters.encode(text)) == text
    assert characters.vocab_size == len(set(text)) and len(characters.encode(text)) == len(text)
    assert single_bytes.decode(single_bytes.encode(text)) == text
    assert bytes(single_bytes.encode(text)) == text.encode()


def test_an_unseen_character_is_named_with_its_place():
    tokenizer = CharTokenizer.from_text("ab\n")
    message = "text[5] (line 2, column 3) is 'é' (U+00E9), which is not among the 3 characters"
    with pytest.raises(ValueError, match=re.escape(message)):
        tokenizer.encode("ab\nabé")
    with pytest.raises(ValueError, match=r"text\[0\] \(line 1, column 1\) is '好' \(U\+597D\)"):
        tokenizer.encode("好")


def test_errors():
    with pytest.raises(ValueError, match=r"must not repeat, but \['a'\] do"):
        CharTokenizer("aba")
    with pytest.raises(ValueError, match=r"token_ids\[1\] is 2; ids go from 0 to 1"):
        CharTokenizer("ab").decode([0, 2])
    with pytest.raises(ValueError, match=r"token_ids\[0\] is -1"):
        CharTokenizer("ab").decode([-1])
    with pytest.raises(ValueError, match=r"token_ids\[2\] is 256; a byte goes from 0 to 255"):
        ByteTokenizer().decode([0, 255, 256])
    with pytest.raises(ValueError, match=r"text\[1\] is '\\udc80', half of a surrogate pair"):
        ByteTokenizer().encode("a\udc80")


def test_bytes_that_are_no_text_are_shown_as_replacement_characters():
    assert ByteTokenizer().decode([72, 0xFF, 105]) == "H\ufffdi"


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (CharTokenizer.from_text("hello, Mia"), "Mia, hello"),
        (ByteTokenizer(), "naïve 🙂"),
        (WordTokenizer(["Mia", "sang", "."]), "Mia sang."),
        (BPETokenizer.from_text("sing song sing song", 270), "sing a song"),
    ],
)
def test_a_tokenizer_survives_json(tokenizer, text: str):
    again = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert type(again) is type(tokenizer) and again.vocab_size == tokenizer.vocab_size
    assert again.encode(text) == tokenizer.encode(text) and again.decode(again.encode(text)) == text


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="is 'sounds'; a tokenizer is one of"):
        from_dict({"kind": "sounds"})
