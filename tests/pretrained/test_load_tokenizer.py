r"""Tokenizers from directories, as transformers writes them."""

import json
import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from minillm.pretrained.loading import load_tokenizer
from minillm.text.byte_alphabet import BYTE_ALPHABET

TEMPLATE = "{% for message in messages %}\n{{ message['content'] }}{% endfor %}"


@pytest.fixture
def saved(tmp_path):
    r"""A directory that transformers has written, and its tokenizer."""
    vocab = {token: i for i, token in enumerate([*BYTE_ALPHABET, "th", "the"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("th", "e")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, tokenizer


def test_what_transformers_saved_is_read(saved):
    folder, other = saved
    tokenizer = load_tokenizer(folder)
    assert (folder / "chat_template.jinja").is_file() and tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_id, tokenizer.eos_id) == (other.bos_token_id, other.eos_token_id)
    for text in ("the <s> then</s>", "<s>", "é\n\n  42 't"):
        assert tokenizer.encode(text) == other.encode(text, add_special_tokens=False)


def test_a_damaged_tokenizer_is_a_value_error(saved):
    folder, _ = saved
    whole = (folder / "tokenizer.json").read_text(encoding="utf-8")
    rng = random.Random()
    for _ in range(40):
        values = json.loads(whole)
        part = rng.choice([values, values["model"], values["pre_tokenizer"], values["added_tokens"][0]])
        part[rng.choice(list(part))] = rng.choice([None, 7, -1, "x", [], {}, [{}], {"a": -1}, True, 1e999])
        (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
        try:
            load_tokenizer(folder)  # some changes do no harm
        except ValueError:
            pass
    (folder / "tokenizer.json").write_text(whole[: rng.randrange(len(whole) - 1)], encoding="utf-8")
    with pytest.raises(ValueError, match="no JSON"):
        load_tokenizer(folder)
