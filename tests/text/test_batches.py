"""Batches: right pairs of input and target, drawn by an explicit generator."""

import random

import pytest
import torch

from minillm.text.batches import next_token_batch, shift_rows, story_batch
from minillm.text.stories import StoryLanguage, split


def test_windows_of_a_running_text(fresh_seed: int):
    rng = random.Random(fresh_seed)
    n, seq_len, batch_size = rng.randint(20, 60), rng.randint(1, 12), rng.randint(1, 9)
    token_ids = torch.tensor(rng.sample(range(1000), n))  # all different, so that a window's place can be found again
    inputs, targets = next_token_batch(token_ids, seq_len, batch_size, torch.Generator().manual_seed(fresh_seed))
    assert inputs.dtype == targets.dtype == torch.int64 and inputs.shape == targets.shape == (batch_size, seq_len)
    text = token_ids.tolist()
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        start = text.index(row[0])
        assert row == text[start : start + seq_len] and target == text[start + 1 : start + 1 + seq_len]


def test_every_window_can_come_up_and_the_generator_decides(fresh_seed: int):
    token_ids = torch.arange(7)
    inputs, targets = next_token_batch(token_ids, 4, 500, torch.Generator().manual_seed(fresh_seed))
    assert set(inputs[:, 0].tolist()) == {0, 1, 2} and targets.max() == 6
    again, _ = next_token_batch(token_ids, 4, 500, torch.Generator().manual_seed(fresh_seed))
    other, _ = next_token_batch(token_ids, 4, 500, torch.Generator().manual_seed(fresh_seed + 1))
    assert torch.equal(inputs, again) and not torch.equal(inputs, other)


def test_too_short_or_empty_requests_are_refused():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="token_ids has 4 tokens; a window of seq_len=4 .* need 5"):
        next_token_batch(torch.arange(4), 4, 1, generator)
    with pytest.raises(ValueError, match="batch_size=0"):
        next_token_batch(torch.arange(9), 4, 0, generator)
    assert next_token_batch(torch.arange(5), 4, 1, generator)[1].tolist() == [[1, 2, 3, 4]]


def test_padding_is_no_target():
    inputs, targets = shift_rows(torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]]), pad_id=0)
    assert inputs.tolist() == [[1, 7, 8], [1, 9, 2]]
    assert targets.tolist() == [[7, 8, 2], [9, 2, -100]]


def test_story_batch(fresh_seed: int):
    language = StoryLanguage()
    inputs, targets = story_batch(language, 16, torch.Generator().manual_seed(fresh_seed))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (16, language.max_len - 1)
    tokenizer = language.tokenizer
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        ids = [i for i in target if i != -100]
        text = tokenizer.decode(ids)
        assert row[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
        assert row[1 : len(ids)] == ids[:-1] and set(target[len(ids) :]) <= {-100}
        assert language.check(text).ok and not split.is_validation(language, text)
    again, _ = story_batch(language, 16, torch.Generator().manual_seed(fresh_seed))
    assert torch.equal(inputs, again)
