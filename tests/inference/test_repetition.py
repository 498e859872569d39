r"""Measures of repetition, against counting by hand, loops built on purpose and torch's own cross-entropy."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.config import preset
from minillm.inference.repetition import distinct_n, find_loop, repeat_nats, token_nats
from minillm.model.gpt import GPT


def small_gpt(seed):
    return GPT(preset("tiny", vocab_size=11, max_seq_len=64), torch.Generator().manual_seed(seed)).eval()


def test_distinct_n_by_hand():
    assert distinct_n([1, 2, 1, 2, 1], 2) == 2 / 4
    assert distinct_n([7, 7, 7, 7], 1) == 1 / 4
    assert distinct_n([5, 6, 7], 3) == 1.0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 5))
def test_distinct_n_counts_what_a_text_search_finds(token_ids, n):
    if n > len(token_ids):
        with pytest.raises(ValueError, match=f"n={n}"):
            distinct_n(token_ids, n)
        return
    text, n_grams = "".join(map(str, token_ids)), len(token_ids) - n + 1
    first = sum(text.find(text[i : i + n]) == i for i in range(n_grams))  # n-grams that stand nowhere before
    assert distinct_n(token_ids, n) == first / n_grams


@pytest.mark.parametrize("n", [0, -1, 4])
def test_distinct_n_refuses_what_has_no_n_grams(n):
    with pytest.raises(ValueError, match=f"n={n}"):
        distinct_n([1, 2, 3], n)


def test_loop_that_was_put_there_is_found(fresh_seed):
    rng = random.Random(fresh_seed)
    for _ in range(50):
        period, repeats = rng.randint(1, 7), rng.randint(3, 6)
        unit = rng.sample(range(100), period)  # all different, so that no shorter period fits
        rest = rng.randint(0, period - 1)
        head = [-1 - i for i in range(rng.randint(0, 9))]
        loop = find_loop(head + unit * repeats + unit[:rest])
        assert (loop.start, loop.period) == (len(head), period)
        assert loop.repeats == pytest.approx(repeats + rest / period)


@given(st.lists(st.integers(0, 2), max_size=24), st.integers(2, 4))
def test_loop_is_what_the_definition_says(token_ids, min_repeats):
    def length(period):
        return next((n for n in range(len(token_ids), 0, -1)
                     if all(a == b for a, b in zip(token_ids[-n:], token_ids[-n:][period:], strict=False))), 0)

    fitting = [p for p in range(1, len(token_ids) + 1) if length(p) >= min_repeats * p]
    loop = find_loop(token_ids, min_repeats)
    if not fitting:
        assert loop is None
    else:
        assert (loop.period, loop.start) == (fitting[0], len(token_ids) - length(fitting[0]))


def test_what_is_no_loop():
    assert find_loop([1, 2, 3, 1, 2, 3]) is None and find_loop([1, 2, 3, 1, 2, 3], 2).period == 3
    assert find_loop([1, 1, 1, 1, 2]) is None, "it has left the loop"
    assert find_loop([]) is None
    with pytest.raises(ValueError, match="min_repeats=1"):
        find_loop([1, 1], 1)


def test_token_nats_token_by_token(fresh_seed):
    model, token_ids = small_gpt(fresh_seed), torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(1))
    nats = token_nats(model, token_ids)
    assert nats.shape == (2, 8)
    for row in range(2):
        for t in range(8):
            with torch.no_grad():
                probs = model(token_ids[row : row + 1, : t + 1])[0, -1].double().softmax(-1)
            assert nats[row, t].item() == pytest.approx(-probs[token_ids[row, t + 1]].log().item(), abs=1e-4)


def test_repeat_nats_sums_what_token_nats_says(fresh_seed):
    model, sentences = small_gpt(fresh_seed), torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(2))
    nats = repeat_nats(model, sentences, 4)
    each = token_nats(model, sentences.repeat(1, 4))
    assert nats.shape == (3, 4)
    for repeat in range(4):  # tokens 1 to 4 of a repetition; entry t of each is about token t + 1
        torch.testing.assert_close(nats[:, repeat], each[:, 5 * repeat : 5 * repeat + 4].mean(-1))


@pytest.mark.unchecked
def test_too_short_is_refused():
    model = small_gpt(0)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        token_nats(model, torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="n_repeats=0"):
        repeat_nats(model, torch.zeros(1, 4, dtype=torch.int64), 0)
