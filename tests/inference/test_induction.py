r"""Induction heads: scores on attention made by hand, and a head that is really gone."""

import pytest
import torch

from minillm.config import preset
from minillm.inference.induction import HeadScores, copying_nats, repeated_random, score_heads, without_head
from minillm.inference.repetition import token_nats
from minillm.layers.recorder import record, report
from minillm.model.gpt import GPT


def small_gpt(seed):
    return GPT(preset("tiny", vocab_size=11, max_seq_len=64), torch.Generator().manual_seed(seed)).eval()


def test_repeated_random_repeats_and_is_random(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    texts = repeated_random(200, 7, 3, 5, generator)
    assert texts.shape == (200, 21)
    assert all(torch.equal(texts[:, i], texts[:, i % 7]) for i in range(21))
    assert set(texts.flatten().tolist()) == set(range(5))
    assert len({tuple(row) for row in texts.tolist()}) > 150
    with pytest.raises(ValueError, match="n_repeats=1"):
        repeated_random(1, 4, 1, 5, generator)


class Pretender:
    r"""Not a model: reports attention in which each head looks at one distance, half of its weight at least."""

    def __init__(self, distances, generator):
        self.distances, self.generator = distances, generator

    def __call__(self, token_ids):
        seq_len = token_ids.shape[1]
        for layer in self.distances:
            weights = torch.rand(len(token_ids), len(layer), seq_len, seq_len, generator=self.generator).tril()
            for head, distance in enumerate(layer):
                queries = torch.arange(distance, seq_len)
                weights[:, head, queries, queries - distance] = 0.0
                weights[:, head] /= weights[:, head].sum(-1, keepdim=True).clamp_min(1e-9) * 2
                weights[:, head, queries, queries - distance] = 0.5
            report("attn_weights", weights)


def test_scores_find_the_head_that_looks_there(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    period = 6
    texts = repeated_random(4, period, 4, 9, generator)
    scores = score_heads(Pretender(((1, 3), (period - 1, period)), generator), texts, period)
    assert isinstance(scores, HeadScores) and scores.previous.shape == (2, 2)
    assert scores.previous[0, 0].item() == pytest.approx(0.5) and scores.induction[1, 0].item() == pytest.approx(0.5)
    others = [scores.previous[0, 1], scores.previous[1, 0], scores.induction[0, 0], scores.induction[1, 1]]
    assert max(others) < 0.2


def test_scores_are_the_weights_one_by_one(fresh_seed):
    model, period = small_gpt(fresh_seed), 5
    texts = repeated_random(2, period, 3, 11, torch.Generator().manual_seed(3))
    with record("attn_weights") as tape, torch.no_grad():
        model(texts)
    scores = score_heads(model, texts, period)
    for layer, weights in enumerate(tape["attn_weights"]):
        for head in range(weights.shape[1]):
            seen = [weights[row, head, i, i - period + 1].item() for row in range(2) for i in range(period, 15)]
            assert scores.induction[layer, head].item() == pytest.approx(sum(seen) / len(seen), abs=1e-6)


def test_a_text_that_is_not_repeated_is_refused():
    with pytest.raises(ValueError, match="period=4"):
        score_heads(small_gpt(0), torch.arange(10)[None], 4)


def test_copying_nats_counts_what_can_be_copied(fresh_seed):
    model, period = small_gpt(fresh_seed), 5
    texts = repeated_random(3, period, 3, 11, torch.Generator().manual_seed(4))
    nats = token_nats(model, texts)  # entry t is about token t + 1
    first, again = copying_nats(model, texts, period).tolist()
    assert first == pytest.approx(nats[:, :4].mean().item(), abs=1e-5), "tokens 1 to 4"
    assert again == pytest.approx(nats[:, 5:].mean().item(), abs=1e-5), "tokens 6 to 14"


def test_a_silent_head_adds_nothing_and_the_model_stays(fresh_seed):
    model, texts = small_gpt(fresh_seed), torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        model.blocks[0].attn.o_proj.weight.normal_(generator=torch.Generator().manual_seed(6))
        before = model(texts)
        heads = model.config.n_heads
        silent = model
        for head in range(heads):
            assert not torch.allclose(without_head(model, 0, head)(texts), before, atol=1e-4)
            silent = without_head(silent, 0, head)
        assert torch.equal(model(texts), before)
        dead = without_head(model, 0, 0)
        dead.blocks[0].attn.o_proj.weight.zero_()
        torch.testing.assert_close(silent(texts), dead(texts))
    with pytest.raises(ValueError, match="layer=0, head=9"):
        without_head(model, 0, 9)
