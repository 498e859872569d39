"""Joined merges: both languages keep what they have, and ids stay in order."""

import random

from minillm.text.bilingual import PAGE, bilingual_sentences
from minillm.text.bpe import BPETokenizer, train_bpe
from minillm.text.corpora import python_docs
from minillm.text.vocabulary import join_merges


def spelled(merges):
    r"""Each merge as the two byte strings that it joins: ids of two tokenizers mean different things."""
    text = {byte: bytes([byte]) for byte in range(256)}
    pairs = set()
    for (left, right), new_id in merges.items():
        pairs.add((text[left], text[right]))
        text[new_id] = text[left] + text[right]
    return pairs


def test_each_language_is_cut_as_by_its_own_tokenizer(fresh_seed: int):
    chinese = "".join(second for _, second in bilingual_sentences(400, random.Random(fresh_seed)))
    first, second = train_bpe(python_docs()[:50_000], 150), train_bpe(chinese, 200)
    joined = BPETokenizer(join_merges(first, second))  # refuses ids that are out of order
    english = BPETokenizer(first)
    assert joined.vocab_size == 256 + len(spelled(first) | spelled(second)) <= 256 + 350
    assert joined.encode(PAGE[0])[:40] == english.encode(PAGE[0])[:40], "the old ids stay"
    assert joined.decode(joined.encode(PAGE[1])) == PAGE[1]
    assert len(joined.encode(chinese)) == len(BPETokenizer(second).encode(chinese)) < 0.5 * len(english.encode(chinese))


def test_what_both_have_learned_is_kept_once():
    merges = train_bpe("abab abab abc abc", 5)
    assert join_merges(merges, merges) == merges
    assert join_merges({}, merges) == merges and join_merges(merges, {}) == merges
    assert join_merges({(1, 2): 256}, {(3, 4): 256, (1, 2): 257, (256, 257): 258}) == {
        (1, 2): 256,
        (3, 4): 257,
        (257, 256): 258,
    }
