r"""Penalties and the typical filter against naive loops and against the processors of transformers."""

import math
from collections import Counter

import pytest
import torch

from minillm.inference.penalties import count_tokens, frequency_presence_penalty, no_repeat_ngram, repetition_penalty
from minillm.inference.sampling import sample, top_p_filter, typical_filter

FORBIDDEN = float("-inf")


def draw(seed, vocab_size=11, seq_len=17):
    r"""Logits and ids with padding on the left, of three rows that differ in length."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, vocab_size, generator=generator, dtype=torch.float64)
    token_ids = torch.randint(0, vocab_size - 3, (3, seq_len), generator=generator)
    n_padding = torch.randint(0, seq_len - 1, (2, 1), generator=generator)
    token_ids[:2] = token_ids[:2].masked_fill(torch.arange(seq_len) < n_padding, -1)
    return logits, token_ids


def rows_of(token_ids):
    return [[token for token in row if token >= 0] for row in token_ids.tolist()]


def test_counts_are_those_of_a_counter(fresh_seed):
    _, token_ids = draw(fresh_seed)
    for counts, row in zip(count_tokens(token_ids, 11).tolist(), rows_of(token_ids), strict=True):
        assert {token: n for token, n in enumerate(counts) if n} == dict(Counter(row))


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3, 5.0])
def test_repetition_penalty_row_by_row(penalty, fresh_seed):
    logits, token_ids = draw(fresh_seed)
    got = repetition_penalty(logits, token_ids, penalty)
    for row, seen, new in zip(logits.tolist(), rows_of(token_ids), got.tolist(), strict=True):
        want = [(x / penalty if x > 0 else x * penalty) if token in seen else x for token, x in enumerate(row)]
        assert new == want
    with pytest.raises(ValueError, match="penalty=0"):
        repetition_penalty(logits, token_ids, 0.0)


def test_frequency_and_presence_row_by_row(fresh_seed):
    logits, token_ids = draw(fresh_seed)
    got = frequency_presence_penalty(logits, token_ids, 0.3, 0.9)
    for row, seen, new in zip(logits.tolist(), rows_of(token_ids), got.tolist(), strict=True):
        want = [x - 0.3 * seen.count(token) - 0.9 * (token in seen) for token, x in enumerate(row)]
        assert new == pytest.approx(want)
    assert torch.equal(frequency_presence_penalty(logits, token_ids), logits)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 30])
def test_no_ngram_twice_row_by_row(n, fresh_seed):
    logits, token_ids = draw(fresh_seed, vocab_size=6, seq_len=24)  # three tokens in use: runs do come back
    got = no_repeat_ngram(logits, token_ids, n)
    for row, seen, new in zip(logits.tolist(), rows_of(token_ids), got.tolist(), strict=True):
        runs = {tuple(seen[i : i + n]) for i in range(len(seen) - n + 1)}
        last = tuple(seen[len(seen) - n + 1 :]) if len(seen) >= n - 1 else None
        for token, (before, after) in enumerate(zip(row, new, strict=True)):
            again = last is not None and (*last, token) in runs
            assert after == (FORBIDDEN if again else before)
    with pytest.raises(ValueError, match="n=0"):
        no_repeat_ngram(logits, token_ids, 0)


def test_the_processors_of_transformers_agree(fresh_seed):
    peers = pytest.importorskip("transformers.generation.logits_process")
    logits, token_ids = draw(fresh_seed, vocab_size=6, seq_len=24)
    logits, token_ids = logits.float(), token_ids[2:].expand(3, -1)  # they know no padding
    for penalty in (0.8, 1.7):
        want = peers.RepetitionPenaltyLogitsProcessor(penalty)(token_ids, logits.clone())
        assert torch.equal(repetition_penalty(logits, token_ids, penalty), want)
    for n in (1, 2, 3):
        want = peers.NoRepeatNGramLogitsProcessor(n)(token_ids, logits.clone())
        assert torch.equal(no_repeat_ngram(logits, token_ids, n), want)
    for share in (0.1, 0.5, 0.9):
        want = peers.TypicalLogitsWarper(share)(token_ids, logits.clone())
        assert torch.equal(typical_filter(logits, share), want)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8, 0.99])
def test_typical_is_sorting_by_distance_from_the_entropy(share, fresh_seed):
    logits, _ = draw(fresh_seed)
    logits[0, :3] = FORBIDDEN
    for row, got in zip(logits.tolist(), typical_filter(logits, share).tolist(), strict=True):
        weights = [math.exp(x) for x in row]
        probs = [weight / math.fsum(weights) for weight in weights]
        entropy = -math.fsum(p * math.log(p) for p in probs if p)
        kept, mass = set(), 0.0
        for token in sorted((i for i in range(len(row)) if probs[i]), key=lambda i: abs(-math.log(probs[i]) - entropy)):
            if mass < share:
                kept.add(token)
            mass += probs[token]
        assert got == [x if token in kept else FORBIDDEN for token, x in enumerate(row)]


def test_typical_may_drop_the_likeliest():
    logits = torch.tensor([[0.4] + [0.6 / 60] * 60]).log()
    assert typical_filter(logits, 0.5)[0, 0] == FORBIDDEN and top_p_filter(logits, 0.5)[0, 0] > FORBIDDEN
    with pytest.raises(ValueError, match="typical_p=0"):
        typical_filter(logits, 0.0)


def test_a_share_of_one_changes_nothing_whatever_rounding_does():
    logits = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(1)) * 3
    for keep in (typical_filter, top_p_filter):
        assert torch.equal(keep(logits, 1.0), logits)


def test_16_bit_logits_stay_16_bit(fresh_seed):
    logits, token_ids = draw(fresh_seed)
    logits = logits.bfloat16()
    changed = (repetition_penalty(logits, token_ids, 1.3), no_repeat_ngram(logits, token_ids, 2),
               frequency_presence_penalty(logits, token_ids, 0.1, 0.1), typical_filter(logits, 0.5))
    assert {x.dtype for x in changed} == {torch.bfloat16}
    assert sample(changed[0], temperature=0.0).shape == (3,)
