"""BPE against string replacement, against the plain trainer, and against the `tokenizers` library."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers

from minillm.text.bpe import (
    BPETokenizer,
    bpe_encode,
    count_pairs,
    merge_pair,
    split_chunks,
    train_bpe,
    train_bpe_by_recounting,
)

ALPHABETS = ["ab", "abc ", "ab cd.,'s", "aé 好\n", "ab12_ \n", "xyz💡"]
small_ids = st.lists(st.integers(0, 3), max_size=40)


def random_text(rng: random.Random, length: int) -> str:
    alphabet = rng.choice(ALPHABETS)
    return "".join(rng.choice(alphabet) for _ in range(length))


def library_merges(text: str, n_merges: int, min_count: int) -> list[tuple[bytes, bytes]]:
    """What `tokenizers` learns from our chunks; a byte is written as a character that sorts like the byte."""
    trainer = trainers.BpeTrainer(
        vocab_size=256 + n_merges,
        min_frequency=min_count,
        initial_alphabet=[chr(0x4E00 + byte) for byte in range(256)],
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    chunks = ["".join(chr(0x4E00 + byte) for byte in chunk.encode()) for chunk in split_chunks(text)]
    tokenizer.train_from_iterator(chunks, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(bytes(ord(c) - 0x4E00 for c in part) for part in merge) for merge in merges]


@given(small_ids)
def test_count_pairs(token_ids: list[int]):
    expected = {}
    for a in range(4):
        for b in range(4):
            count = sum(token_ids[i : i + 2] == [a, b] for i in range(len(token_ids)))
            if count:
                expected[a, b] = count
    assert count_pairs(token_ids) == expected


@given(small_ids, st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_merge_pair_is_string_replacement(token_ids: list[int], pair: tuple[int, int]):
    before = list(token_ids)
    text = "".join("0123"[i] for i in token_ids)
    expected = text.replace(f"{pair[0]}{pair[1]}", "9")
    assert "".join(map(str, merge_pair(token_ids, pair, 9))) == expected
    assert token_ids == before


@given(small_ids, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=6, unique=True))
def test_bpe_encode_replaces_in_the_order_learned(token_ids: list[int], pairs: list[tuple[int, int]]):
    # New ids count up from 4 and a merge may use earlier ones only: then one pass a merge, in order, is the same.
    merges = {}
    for pair in pairs:
        if max(pair) < 4 + len(merges):
            merges[pair] = 4 + len(merges)
    text = "".join("0123456789"[i] for i in token_ids)
    for (a, b), new_id in merges.items():
        text = text.replace(f"{a}{b}", str(new_id))
    assert "".join(map(str, bpe_encode(token_ids, merges))) == text


@given(st.text(max_size=200) | st.text(alphabet="a '\n\t_1.é好", max_size=200))
def test_chunks_are_a_partition(text: str):
    chunks = split_chunks(text)
    assert "".join(chunks) == text
    assert all(1 <= len(chunk) <= 65 for chunk in chunks)


def test_chunks_of_an_example():
    assert split_chunks("Tom's  kite_2 flew,\n\nit'll!") == [
        "Tom", "'s", " ", " kite", "_", "2", " flew", ",", "\n", "\n", "it", "'ll", "!",
    ]  # fmt: skip
    assert list(map(len, split_chunks("a" * 150))) == [64, 64, 22]


def test_both_trainers_and_the_library_learn_the_same(fresh_seed: int):
    rng = random.Random(fresh_seed)
    n_compared = 0
    for _ in range(60):
        text, n_merges, min_count = random_text(rng, rng.randrange(300)), rng.randrange(60), rng.choice([1, 2, 3])
        merges = train_bpe(text, n_merges, min_count)
        assert list(merges.items()) == list(train_bpe_by_recounting(text, n_merges, min_count).items())
        token_bytes = BPETokenizer(merges).token_bytes
        ours = [(token_bytes[left], token_bytes[right]) for left, right in merges]
        assert ours == library_merges(text, n_merges, min_count), repr(text)
        n_compared += len(ours)
    assert n_compared > 300


def test_library_encodes_the_same(fresh_seed: int):
    rng = random.Random(fresh_seed)
    tokenizer = BPETokenizer.from_text(random_text(rng, 2000), 320)
    as_text = ["".join(chr(0x4E00 + byte) for byte in token) for token in tokenizer.token_bytes]
    library = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(as_text)},
            merges=[(as_text[left], as_text[right]) for left, right in tokenizer.merges],
        )
    )
    text = random_text(rng, 500)
    expected = []
    for chunk in split_chunks(text):
        expected += library.encode("".join(chr(0x4E00 + byte) for byte in chunk.encode())).ids
    assert tokenizer.encode(text) == expected


def test_ties_go_to_the_smaller_pair():
    assert list(train_bpe("cd ab", 1, min_count=1)) == [(ord(" "), ord("a"))]
    assert list(train_bpe("cdab", 3, min_count=1)) == [(ord("a"), ord("b")), (ord("c"), ord("d")), (257, 256)]


TRAINED = BPETokenizer.from_text("the theory of the thing: 好好学习, 天天向上. naïve café 🙂🙂 " * 5, 330)


@given(st.text(max_size=100))
def test_exact_on_any_text(text: str):
    assert TRAINED.decode(TRAINED.encode(text)) == text


def test_merges_shorten_and_stop_when_nothing_repeats():
    text = "the theory of the thing"
    assert len(TRAINED.encode(text)) < len(text) / 2
    assert train_bpe("abc", 10) == {} == train_bpe("", 10)
    assert BPETokenizer.from_text("abab", 300).vocab_size == 257


def test_ids_and_errors():
    for text in ("the naïve", "x"):
        assert all(0 <= i < TRAINED.vocab_size for i in TRAINED.encode(text))
    assert TRAINED.decode([0xC3]) == "\ufffd"
    assert BPETokenizer.from_dict(TRAINED.to_dict()).merges == TRAINED.merges
    with pytest.raises(ValueError, match=r"token_ids\[1\] is 5000; ids go from 0 to"):
        TRAINED.decode([0, 5000])
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        TRAINED.encode("ab\ud800")
    with pytest.raises(ValueError, match=r"\(97, 98\) -> 300 as number 0"):
        BPETokenizer({(97, 98): 300})
    with pytest.raises(ValueError, match="must give new ids"):
        BPETokenizer({(97, 256): 256})
    with pytest.raises(ValueError, match="vocab_size=10 must be at least 256"):
        BPETokenizer.from_text("text", 10)
    with pytest.raises(ValueError, match="n_merges=-1"):
        train_bpe("text", -1)
