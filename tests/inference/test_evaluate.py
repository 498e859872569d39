r"""Evaluation against loops that take one token at a time, and against models whose answer is known."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference import evaluate
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import validation_stories

LANGUAGE = StoryLanguage()
TOKENIZER = LANGUAGE.tokenizer


class Bigrams(torch.nn.Module):
    r"""A model that looks only at the last token (and a little at how many came before it in the window)."""

    def __init__(self, vocab_size, max_seq_len, seed=0, position_weight=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(vocab_size, vocab_size, generator=generator))
        self.config = SimpleNamespace(vocab_size=vocab_size, max_seq_len=max_seq_len)
        self.position_weight = position_weight

    def forward(self, token_ids):
        n_before = torch.arange(token_ids.shape[1])[:, None]
        return self.table[token_ids] * (1 + self.position_weight * n_before)


class Oracle(torch.nn.Module):
    r"""A model that knows the story language: the exact distribution of the next word, from a list of all stories.

    The list holds only the stories given, so the language that it knows is uniform over them.
    """

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vocab_size=TOKENIZER.vocab_size, max_seq_len=rows.shape[1] - 1)

    def new_cache(self, batch_size, capacity, dtype=None):
        return [torch.zeros(batch_size, 0, dtype=torch.int64)]

    def forward(self, token_ids, padding_mask=None, positions=None, cache=None):
        n_new = token_ids.shape[1]
        if cache:
            cache[0] = token_ids = torch.cat([cache[0], token_ids], dim=1)
        matches = (self.rows[None, :, : token_ids.shape[1]] == token_ids[:, None]).int().cumprod(dim=2)
        logits = torch.full((*token_ids.shape, TOKENIZER.vocab_size), -30.0)
        for t in range(token_ids.shape[1] - n_new, token_ids.shape[1]):
            counts = matches[:, :, t].float() @ F.one_hot(self.rows[:, t + 1], TOKENIZER.vocab_size).float()
            logits[:, t] = (counts / counts.sum(1, keepdim=True).clamp(min=1)).log().clamp(min=-30.0)
        return logits


def as_rows(stories):
    r"""Stories as padded rows of token ids."""
    ids = [[TOKENIZER.bos_id, *TOKENIZER.encode(story), TOKENIZER.eos_id] for story in stories]
    return torch.tensor([row + [TOKENIZER.pad_id] * (LANGUAGE.max_len - len(row)) for row in ids])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_perplexity_is_one_mean_over_all_counted_tokens(dtype, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    logits = (4 * torch.randn(3, 6, 5, generator=generator)).to(dtype)
    targets = torch.randint(5, (3, 6), generator=generator)
    targets[0, 2:], targets[1] = -100, -100
    surprises = [-math.log(torch.softmax(logits[b, t].double(), 0)[targets[b, t]].item())
                 for b in range(3) for t in range(6) if targets[b, t] >= 0]
    want = math.exp(sum(surprises) / len(surprises))
    assert evaluate.perplexity(logits, targets) == pytest.approx(want, rel=1e-5)


def test_perplexity_of_those_who_know_nothing_everything_and_the_opposite():
    targets = torch.tensor([[3, 1, -100]])
    assert evaluate.perplexity(torch.zeros(1, 3, 50), targets) == pytest.approx(50)
    sure = 90.0 * F.one_hot(targets.clamp(min=0), 50)
    assert evaluate.perplexity(sure, targets) == pytest.approx(1.0)
    assert evaluate.perplexity(-sure, targets) > 1e30
    with pytest.raises(ValueError, match=r"targets \(1, 2\): all are -100"):
        evaluate.perplexity(torch.zeros(1, 2, 4), torch.full((1, 2), -100))


def test_bits_per_byte_is_8_for_a_guess_at_each_byte():
    text = "naïve 猫"
    n_bytes = len(text.encode())
    assert evaluate.bits_per_byte(torch.full((n_bytes,), math.log(256)), text) == pytest.approx(8.0)
    whole = torch.tensor([n_bytes * math.log(256)])  # cut into tokens as one likes
    assert evaluate.bits_per_byte(whole, text) == pytest.approx(8.0)
    with pytest.raises(ValueError, match="text is empty"):
        evaluate.bits_per_byte(whole, "")


def test_bits_per_byte_sums_in_double_precision():
    assert evaluate.bits_per_byte(torch.full((2**22,), 1.1), "a") == pytest.approx(
        float(torch.tensor(1.1)) * 2**22 / math.log(2), rel=1e-12)


def test_batch_nats_is_a_sum_over_the_counted_targets(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    model = Bigrams(11, 9, fresh_seed)
    ids = torch.randint(0, 11, (7, 9), generator=generator)
    targets = torch.randint(0, 11, (7, 9), generator=generator)
    targets[torch.rand(7, 9, generator=generator) < 0.3] = -100
    want = 0.0
    for b in range(7):
        for t in range(9):
            if targets[b, t] >= 0:
                want -= math.log(torch.softmax(model.table[ids[b, t]].double(), 0)[targets[b, t]].item())
    for batch_size in (1, 3, 64):
        nats, count = evaluate.batch_nats(model, ids, targets, batch_size)
        assert nats == pytest.approx(want, rel=1e-5) and count == int((targets >= 0).sum())


@given(seed=st.integers(0, 2**31), n_tokens=st.integers(1, 60), window=st.integers(2, 20), batch_size=st.integers(1, 9))
def test_each_token_of_a_text_is_counted_once(seed, n_tokens, window, batch_size):
    ids = torch.randint(0, 7, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    model = Bigrams(7, 20, seed)  # what lies further back does not matter to it: any windows give one answer
    want = math.log(7)
    for before, after in zip(ids, ids[1:], strict=False):
        want -= torch.log_softmax(model.table[before], 0)[after].item()
    each = evaluate.text_token_nats(model, ids, window, batch_size)
    assert len(each) == n_tokens and evaluate.text_nats(model, ids, window, batch_size) == pytest.approx(want, rel=1e-4)
    assert each[0].item() == pytest.approx(math.log(7))
    for i in range(1, n_tokens):  # in the order of the text
        assert each[i].item() == pytest.approx(-torch.log_softmax(model.table[ids[i - 1]], 0)[ids[i]].item(), abs=1e-5)


@given(seed=st.integers(0, 2**31), n_tokens=st.integers(2, 60), window=st.integers(2, 20))
def test_later_windows_count_only_tokens_with_half_a_window_before_them(seed, n_tokens, window):
    ids = torch.randint(0, 7, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    model = Bigrams(7, 20, seed, position_weight=0.1)  # knows where in the window it is
    want, stride = math.log(7), window // 2
    for i in range(1, n_tokens):
        start = 0  # the first window that holds token i as a target; the last one ends with the text
        while start + window < i:
            start = min(start + stride, n_tokens - 1 - window)
        logits = model.table[ids[i - 1]] * (1 + 0.1 * (i - 1 - start))
        want += F.cross_entropy(logits, torch.tensor(ids[i])).item()
        assert start == 0 or i - start > window - stride >= window / 2
    assert evaluate.text_nats(model, ids, window) == pytest.approx(want, rel=1e-4)


def test_text_nats_refuses_what_does_not_fit():
    model = Bigrams(7, 20)
    with pytest.raises(ValueError, match="token_ids is empty"):
        evaluate.text_nats(model, [], 8)
    for window in (1, 21):
        with pytest.raises(ValueError, match=f"window={window}: use 2 to max_seq_len=20"):
            evaluate.text_nats(model, [1, 2], window)


def test_a_model_that_knows_nothing_pays_log_v_a_token():
    model = Bigrams(TOKENIZER.vocab_size, LANGUAGE.max_len)
    model.table.data.zero_()
    stories = validation_stories(LANGUAGE, 50, seed=3)
    n_targets = sum(len(TOKENIZER.encode(story)) + 1 for story in stories)
    want = n_targets / 50 * math.log(TOKENIZER.vocab_size)
    assert evaluate.story_nats(model, LANGUAGE, 50, seed=3) == pytest.approx(want, rel=1e-5)


def test_the_report_tells_a_model_that_knows_the_language_from_one_that_errs(fresh_seed):
    rng = random.Random(fresh_seed)
    stories = [LANGUAGE.sample(rng) for _ in range(8)]
    generator = torch.Generator().manual_seed(fresh_seed)
    told = evaluate.sample_stories(Oracle(as_rows(stories)), LANGUAGE, 40, generator=generator)
    assert set(told) <= set(stories) and len(set(told)) > 1
    assert set(evaluate.sample_stories(Oracle(as_rows(stories[:1])), LANGUAGE, 3, temperature=0.0)) == {stories[0]}

    wrong = stories[0].replace(".", ",", 1)
    assert not LANGUAGE.check(wrong).ok
    known = Oracle(as_rows([stories[0], wrong]))
    report = evaluate.story_report(known, LANGUAGE, n_stories=4, n_samples=60, generator=generator)
    assert 0.2 < report.valid_fraction < 0.8  # chance of a false alarm: 2e-6
    assert report.n_stories == 4 and report.n_samples == 60
    assert report.floor_nats_per_story == LANGUAGE.entropy()
    assert report.nats_per_story == evaluate.story_nats(known, LANGUAGE, 4)
    assert report.over_floor == pytest.approx(report.nats_per_story / LANGUAGE.entropy() - 1)
