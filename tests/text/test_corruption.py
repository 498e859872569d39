r"""Corrupted texts: the shares that were promised, nothing lost, nothing made up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.text.corruption import corrupt_spans, mask_tokens, random_spans


def test_mask_tokens_keeps_its_shares(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    vocab_size, mask_id = 1000, 1000  # a mask symbol that is no word
    token_ids = torch.randint(vocab_size, (500, 800), generator=generator)
    before = token_ids.clone()
    corrupted, targets = mask_tokens(token_ids, mask_id, vocab_size, generator)
    assert torch.equal(token_ids, before)
    chosen = targets != -100
    assert torch.equal(targets[chosen], token_ids[chosen]) and torch.equal(corrupted[~chosen], token_ids[~chosen])
    hidden = corrupted == mask_id
    replaced = (corrupted != token_ids) & ~hidden
    assert not (hidden & ~chosen).any()
    for part, share in ((chosen, 0.15), (hidden, 0.12), (replaced, 0.015 * (1 - 1 / vocab_size))):
        n = part.numel()
        assert abs(float(part.double().mean()) - share) < 6 * (share * (1 - share) / n) ** 0.5
    counts = torch.bincount(corrupted[replaced], minlength=vocab_size)[:vocab_size].double()
    assert float((counts - counts.mean()).square().sum() / counts.mean()) < 1.5 * vocab_size  # chi-squared: all alike


@given(st.integers(12, 300), st.floats(0.05, 0.5), st.floats(1.0, 5.0), st.integers(0, 2**31))
def test_spans_cut_what_was_asked(n_tokens, share, mean_len, seed):
    spans = random_spans(n_tokens, torch.Generator().manual_seed(seed), share, mean_len)
    n_cut = max(1, round(share * n_tokens))
    assert sum(end - start for start, end in spans) == n_cut and len(spans) == max(1, round(n_cut / mean_len))
    edges = [0, *(edge for span in spans for edge in span)]
    assert all(a < b for a, b in zip(edges, edges[1:], strict=False)) and edges[-1] == n_tokens


@given(st.integers(12, 200), st.integers(0, 2**31))
def test_corrupted_text_can_be_put_together_again(n_tokens, seed):
    spans = random_spans(n_tokens, torch.Generator().manual_seed(seed))
    sentinels = range(10**6, 10**6 + len(spans) + 1)
    inputs, targets = corrupt_spans(range(n_tokens), spans, sentinels)
    assert targets[0] == sentinels[0] and targets[-1] == sentinels[-1]
    places = [targets.index(sentinel) for sentinel in sentinels]
    cut = {s: targets[a + 1 : b] for s, a, b in zip(sentinels, places, places[1:], strict=False)}
    mended = [word for token in inputs for word in cut.get(token, [token])]
    assert mended == list(range(n_tokens))


def test_spans_are_everywhere(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    cut = torch.zeros(20)
    for _ in range(600):
        for start, end in random_spans(20, generator, 0.3, 2.0):
            cut[start:end] += 1
    assert cut[0] == 0 and (cut[1:] > 60).all()  # each place but the first is cut about 6 times in 19


def test_refusals():
    with pytest.raises(ValueError, match="too short"):
        random_spans(4, torch.Generator(), share=0.9, mean_len=1.0)
    with pytest.raises(ValueError, match="one more than the 2 spans"):
        corrupt_spans([1, 2, 3, 4, 5], [(1, 2), (3, 4)], [90, 91])
