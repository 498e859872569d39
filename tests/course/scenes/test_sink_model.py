r"""Trigger texts keep their rule, and streaming is the whole pass."""

import torch
import torch.nn.functional as F

from minillm.course.scenes.sink_model import (
    BEGIN,
    MODEL,
    N_SIGNS,
    N_TRIGGERS,
    streamed_nats,
    train_sink_model,
    trigger_texts,
)
from minillm.model.gpt import GPT


def test_after_a_trigger_the_sign_before_it_comes_again(fresh_seed):
    texts = trigger_texts(50, 40, fresh_seed, habits_seed=fresh_seed)
    assert texts.shape == (50, 40) and (texts[:, 0] == BEGIN).all() and int(texts[:, 1:].max()) < N_SIGNS
    triggers = texts[:, 1:-1] < N_TRIGGERS
    assert triggers.any() and torch.equal(texts[:, 2:][triggers], texts[:, :-2][triggers])
    assert torch.equal(texts, trigger_texts(50, 40, fresh_seed, habits_seed=fresh_seed))
    assert not torch.equal(texts, trigger_texts(50, 40, fresh_seed + 1, habits_seed=fresh_seed))


def test_streaming_with_a_contiguous_cache_is_the_whole_pass(fresh_seed):
    model = GPT(MODEL, torch.Generator().manual_seed(fresh_seed)).eval()
    texts = trigger_texts(3, 30, fresh_seed)
    with torch.no_grad():
        want = F.cross_entropy(model(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten(), reduction="none")
    for cache in (None, model.new_cache(3, 30)):
        torch.testing.assert_close(streamed_nats(model, texts, cache).flatten(), want, atol=1e-4, rtol=1e-4)


def test_a_short_training_lowers_the_surprise(fresh_seed):
    model = train_sink_model(fresh_seed % 1000, steps=40)
    assert not model.training
    texts = trigger_texts(32, 25, seed=fresh_seed + 1, habits_seed=fresh_seed % 1000)
    fresh = GPT(MODEL, torch.Generator().manual_seed(fresh_seed)).eval()
    assert streamed_nats(model, texts, None).mean() < streamed_nats(fresh, texts, None).mean() - 0.5
