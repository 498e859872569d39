r"""Every text that is written under a constraint matches, with every tokenizer, however it is written."""

import json
import math
import re
import string

import pytest
import torch

from minillm.config import Rope, preset
from minillm.inference.beam import beam_search
from minillm.inference.constrained.automaton import compile_regex
from minillm.inference.constrained.constraint import TokenConstraint
from minillm.inference.constrained.json_patterns import (
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    STRING,
    json_array,
    json_choice,
    json_object,
)
from minillm.inference.constrained.token_texts import token_texts
from minillm.inference.generate import generate
from minillm.inference.left_padding import left_pad
from minillm.model.gpt import GPT
from minillm.text.bpe import BPETokenizer
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer
from minillm.text.words import WordTokenizer

TEXT = 'She said: "call 555-1234 or 555-9876, true or false?" {"name": "日本é", "age": 12.5} [1, 2] null ' * 20
TOKENIZERS = {
    "characters": CharTokenizer.from_text(TEXT + string.printable),
    "bytes": ByteTokenizer(),
    "bpe": BPETokenizer.from_text(TEXT, 330),
}
WORDS = WordTokenizer(["the", "a", "cat", "dog", "sat", "on", "mat", ".", ",", "555", "1234", "-"])
PATTERNS = {
    r"\d{3}-\d{4}": 8, r"[a-z]+( [a-z]+)*\.": 12, r"(yes|no|I don't know)": 13, r"[日本é]{2,3}x?": 12,
    r"\[(true|false)(, (true|false))*\]": 30, "": 3, r".{1,5}": 9, r"a*(b|cd)+": 6,
}  # fmt: skip


def make(seed, vocab_size):
    torch.manual_seed(seed)
    model = GPT(preset("tiny", vocab_size=vocab_size, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, position=Rope(),
                       max_seq_len=256)).eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model


def rows(seed, vocab_size, n=24, longest=6):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator).tolist()
    return [torch.randint(0, vocab_size, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_all_that_is_written_matches(kind, pattern, fresh_seed):
    tokenizer = TOKENIZERS[kind]
    end_id = tokenizer.encode("\n")[0] if pattern != r".{1,5}" else None  # `.` has everything but the line's end
    model, (token_ids, mask) = make(fresh_seed, tokenizer.vocab_size), left_pad(rows(fresh_seed, tokenizer.vocab_size))
    n_new = PATTERNS[pattern]
    constraint = TokenConstraint(
        compile_regex(pattern), tokenizer, token_ids.shape[1], max_new_tokens=n_new, end_id=end_id)
    for options in (dict(temperature=1.7, generator=torch.Generator().manual_seed(fresh_seed)), dict(temperature=0.0),
                    dict(top_k=3), dict(top_p=0.5), dict(min_p=0.9)):
        out = generate(model, token_ids, n_new, padding_mask=mask, processors=[constraint],
                       stop_ids=constraint.stop_ids, pad_id=1, **options)
        texts = [constraint.read(row) for row in out]
        assert all(re.fullmatch(pattern, text) for text in texts), texts
    beams, scores = beam_search(model, token_ids[:3], n_new, n_beams=4, processors=[constraint],
                                padding_mask=mask[:3], stop_ids=constraint.stop_ids, pad_id=1)
    for beam, row_scores in zip(beams, scores, strict=True):
        texts = [constraint.read(row) for row, score in zip(beam, row_scores, strict=True) if score > -math.inf]
        assert texts and all(re.fullmatch(pattern, text) for text in texts), texts


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_padded_batch_equals_one_by_one(kind, fresh_seed):
    tokenizer, pattern = TOKENIZERS[kind], r"\w{2,4}(, \w+)*!?"
    model, prompts = make(fresh_seed, tokenizer.vocab_size), rows(fresh_seed, tokenizer.vocab_size, n=5)
    automaton, end_id = compile_regex(pattern), tokenizer.encode("\n")[0]

    def write(token_ids, mask):
        constraint = TokenConstraint(automaton, tokenizer, token_ids.shape[1], max_new_tokens=9, end_id=end_id)
        out = generate(model, token_ids, 9, temperature=0.0, padding_mask=mask, processors=[constraint],
                       stop_ids=constraint.stop_ids)
        return out[:, token_ids.shape[1] :]

    together = write(*left_pad(prompts))
    for prompt, row in zip(prompts, together, strict=True):
        assert torch.equal(write(*left_pad([prompt]))[0], row)


def test_words_get_their_spaces(fresh_seed):
    model = make(fresh_seed, WORDS.vocab_size)
    prompts = [[WORDS.bos_id], [WORDS.bos_id, *WORDS.encode("the cat")], [WORDS.bos_id, *WORDS.encode("a")]]
    token_ids, mask = left_pad(prompts, WORDS.pad_id)
    pattern = r" ?(the|a) (cat|dog) sat( on the mat)?(,| the)*\."
    constraint = TokenConstraint(compile_regex(pattern), WORDS, token_ids.shape[1], max_new_tokens=12)
    assert constraint.stop_ids == [WORDS.eos_id]
    out = generate(model, token_ids, 12, padding_mask=mask, processors=[constraint], stop_ids=constraint.stop_ids)
    for prompt, row in zip(prompts, out, strict=True):
        text = constraint.read(row)
        assert re.fullmatch(pattern, text) and text.startswith(" ") == (len(prompt) > 1)
        assert WORDS.decode(prompt + row[token_ids.shape[1] :].tolist()) == WORDS.decode(prompt) + text
    only_first = TokenConstraint(compile_regex("the cat"), WORDS, 1)
    with pytest.raises(ValueError, match="no text that may follow this prompt"):
        only_first(torch.tensor([[5]]), torch.zeros(1, WORDS.vocab_size))


def test_every_way_to_a_match_is_open_and_no_other(fresh_seed):
    r"""Walk through all texts of a few tokens: allowed is exactly what some short enough match begins with."""
    tokenizer, pattern, longest, end_id = CharTokenizer("abc.;"), r"(ab|ba)*c?\.?", 4, 4
    constraint = TokenConstraint(compile_regex(pattern), tokenizer, 1, max_new_tokens=longest, end_id=end_id)
    texts = [""]
    for text in texts:
        if len(text) < longest:
            texts += [text + letter for letter in "abc."]
    good = {text for text in texts if re.fullmatch(pattern, text)}
    for text in texts:
        if len(text) < longest and any(match.startswith(text) for match in good):
            ids = torch.tensor([[0, *tokenizer.encode(text)]])
            allowed = constraint(ids, torch.zeros(1, 5))[0] > -math.inf
            want = [any(match.startswith(text + letter) for match in good) for letter in "abc."] + [text in good]
            assert allowed.tolist() == want, text


def test_the_model_decides_among_what_is_allowed(fresh_seed):
    constraint = TokenConstraint(compile_regex("a|b"), CharTokenizer("abc;"), 1, end_id=3)
    logits = torch.randn(1, 4, generator=torch.Generator().manual_seed(fresh_seed))
    before = logits.clone()
    got = constraint(torch.tensor([[2]]), logits)
    assert torch.equal(got[:, :2], logits[:, :2]) and got[0, 2:].tolist() == [-math.inf] * 2
    assert torch.equal(logits, before)
    wider = torch.cat([logits, torch.ones(1, 3)], dim=1)  # of a model with more rows than there are tokens
    assert torch.equal(constraint(torch.tensor([[2]]), wider), torch.nn.functional.pad(got, (0, 3), value=-math.inf))
    left_the_pattern = torch.tensor([[2, 2]])
    assert torch.equal(constraint(left_the_pattern, logits), logits)


SHAPE = json_object({
    "name": STRING, "age": INTEGER, "size": NUMBER, "alive": BOOLEAN, "kind": json_choice(["cat", "dog", None, 7]),
    "tags": json_array(STRING, most=2), "at": json_object({"x": NUMBER, "y": json_array(INTEGER, least=1, most=3)}),
    "nothing": NULL,
})  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_json_of_a_given_shape_can_always_be_read(kind, fresh_seed):
    tokenizer = TOKENIZERS[kind]
    model, token_ids = make(fresh_seed, tokenizer.vocab_size), torch.tensor(tokenizer.encode("x")).expand(8, -1)
    constraint = TokenConstraint(
        compile_regex(SHAPE), tokenizer, 1, max_new_tokens=200, end_id=tokenizer.encode("\n")[0])
    for temperature in (0.0, 2.0):
        out = generate(model, token_ids, 200, temperature=temperature, processors=[constraint],
                       stop_ids=constraint.stop_ids, generator=torch.Generator().manual_seed(fresh_seed))
        for row in out:
            value = json.loads(constraint.read(row))
            assert [type(value[name]) for name in ("name", "age", "alive", "nothing")] == [str, int, bool, type(None)]
            assert value["kind"] in ("cat", "dog", None, 7) and 1 <= len(value["at"]["y"]) <= 3
            assert len(value["tags"]) <= 2 and isinstance(value["size"], (int, float))


def test_json_patterns_take_what_json_writes():
    automata = {pattern: compile_regex(pattern) for pattern in (STRING, NUMBER, INTEGER, json_array(INTEGER))}
    for value in ("", "a\"b\\c\n\u2028é🙂\x00", "x" * 50):
        for ascii_only in (True, False):
            assert automata[STRING].matches(json.dumps(value, ensure_ascii=ascii_only))
    for value in (0, -7, 1.5, 1e300, -2.5e-9, 10**20):
        assert automata[NUMBER].matches(json.dumps(value))
    assert not automata[INTEGER].matches("007") and not automata[STRING].matches('"a\nb"')
    for n in range(5):
        values = json.dumps(list(range(n)))
        assert automata[json_array(INTEGER)].matches(values)
        for least, most in ((0, 1), (0, 3), (1, 1), (2, 3), (3, None)):
            fits = least <= n and (most is None or n <= most)
            assert compile_regex(json_array(INTEGER, least, most)).matches(values) == fits
    with pytest.raises(ValueError, match="least=3, most=2"):
        json_array(INTEGER, 3, 2)
    with pytest.raises(ValueError, match="values is empty"):
        json_choice([])


def test_token_texts_are_what_decode_shows(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    for tokenizer in TOKENIZERS.values():
        texts = token_texts(tokenizer, at_start=False)
        ids = torch.randint(0, tokenizer.vocab_size, (40,), generator=generator).tolist()
        assert b"".join(texts[i] for i in ids).decode(errors="replace") == tokenizer.decode(ids)
    ids = torch.randint(3, WORDS.vocab_size, (40,), generator=generator).tolist()
    first, later = token_texts(WORDS, at_start=True), token_texts(WORDS, at_start=False)
    assert (first[ids[0]] + b"".join(later[i] for i in ids[1:])).decode() == WORDS.decode(ids)
    with pytest.raises(TypeError, match="token_bytes"):
        token_texts(object(), at_start=False)


def test_what_can_not_be_written_is_refused_at_once():
    letters = CharTokenizer("abc")
    with pytest.raises(ValueError, match="no text of this tokenizer matches"):
        TokenConstraint(compile_regex("abx"), letters, 1)
    with pytest.raises(ValueError, match="no text of fewer than 3 tokens"):
        TokenConstraint(compile_regex("abc|aaaa"), CharTokenizer("abc;"), 1, max_new_tokens=2)
    with pytest.raises(ValueError, match="give a token that may end the text"):
        TokenConstraint(compile_regex("[abc]+"), letters, 1)
    assert TokenConstraint(compile_regex("a+b?"), letters, 1).end_id == 2
