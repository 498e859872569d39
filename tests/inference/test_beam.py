r"""Beam search against trying every text, against a plain loop in Python, and row by row."""

import itertools
import math
import random

import pytest
import torch

from minillm.config import Mla, NoPosition, Rope, preset
from minillm.inference.beam import beam_search, beam_step
from minillm.inference.beam_cache import BeamCache
from minillm.inference.caches import block_pool, paged
from minillm.inference.caches.block_table import blocks_needed
from minillm.inference.generate import generate
from minillm.inference.left_padding import left_pad
from minillm.model.gpt import GPT


def make(seed, vocab_size=5, **changes):
    torch.manual_seed(seed)
    changes = dict(d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, position=Rope()) | changes
    model = GPT(preset("tiny", vocab_size=vocab_size, **changes)).eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model


@torch.no_grad()
def log_probs_of(model, prompt, texts):
    r"""For each text the sum of its tokens' log-probabilities, from one pass over whole texts of each length."""
    sums = {}
    for length in {len(text) for text in texts}:
        same = [text for text in texts if len(text) == length]
        logits = model(torch.tensor([[*prompt, *text] for text in same])).double().log_softmax(-1)
        for text, row in zip(same, logits, strict=True):
            sums[text] = sum(float(row[len(prompt) - 1 + i, token]) for i, token in enumerate(text))
    return sums


def every_text(vocab_size, longest, stops):
    r"""All texts that end at their first stop token, or are as long as may be."""
    for length in range(1, longest + 1):
        for text in itertools.product(range(vocab_size), repeat=length):
            if not set(text[:-1]) & set(stops) and (length == longest or text[-1] in stops):
                yield text


def test_a_step_keeps_the_best_of_all_ways(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    scores, log_probs = torch.randn(2, 3, generator=generator), torch.randn(2, 3, 7, generator=generator)
    for n_beams in (1, 4, 21):
        best, parents, token_ids = beam_step(scores, log_probs, n_beams)
        for row in range(2):
            ways = [(float(scores[row, k] + log_probs[row, k, v]), k, v) for k in range(3) for v in range(7)]
            want = sorted(ways, reverse=True)[:n_beams]
            got = zip(best[row].tolist(), parents[row].tolist(), token_ids[row].tolist(), strict=True)
            assert list(got) == want
    with pytest.raises(ValueError, match="n_beams=22: use 1 to 21"):
        beam_step(scores, log_probs, 22)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("stops", [(), (3,), (0, 2)])
def test_with_beams_enough_it_finds_the_best_of_all_texts(stops, length_penalty, fresh_seed):
    model, prompt, longest = make(fresh_seed), [1, 4], 4
    texts = list(every_text(5, longest, stops))
    sums = log_probs_of(model, prompt, texts)
    ranked = sorted(((total / len(text) ** length_penalty, text) for text, total in sums.items()), reverse=True)
    token_ids, scores = beam_search(
        model, torch.tensor([prompt]), longest, n_beams=len(texts), length_penalty=length_penalty, stop_ids=stops,
        pad_id=9)
    assert token_ids.shape == (1, len(texts), 2 + longest)
    assert scores[0].tolist() == pytest.approx([score for score, _ in ranked], abs=1e-4)
    for row, (_, text) in list(zip(token_ids[0].tolist(), ranked, strict=True))[:3]:
        assert row == prompt + list(text) + [9] * (longest - len(text))


def search_plainly(model, prompt, longest, n_beams, stops, length_penalty):
    r"""The same search with lists, without a cache and without ending early."""
    alive, done = [(0.0, [])], []
    for _ in range(longest):
        ways = []
        for score, text in alive:
            logits = model(torch.tensor([prompt + text]))[0, -1].log_softmax(-1).tolist()
            ways += [(score + x, [*text, token]) for token, x in enumerate(logits)]
        ways.sort(key=lambda way: -way[0])
        done += [way for way in ways[:n_beams] if way[1][-1] in stops]
        alive = [way for way in ways if way[1][-1] not in stops][:n_beams]
    scored = [(score / len(text) ** length_penalty, text) for score, text in done + alive]
    return sorted(scored, key=lambda text: -text[0])[:n_beams]


MLA = dict(n_kv_heads=2, attention=Mla(kv_rank=6, rope_dim=4))


@pytest.mark.parametrize("attention", [{}, MLA], ids=["gqa", "mla"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.3])
def test_few_beams_are_those_of_a_plain_search(attention, length_penalty, fresh_seed):
    model, prompt = make(fresh_seed, vocab_size=9, **attention), [1, 4, 8]
    for n_beams in (1, 3, 4):
        with torch.no_grad():
            want = search_plainly(model, prompt, 7, n_beams, (2, 6), length_penalty)
        token_ids, scores = beam_search(
            model, torch.tensor([prompt]), 7, n_beams=n_beams, length_penalty=length_penalty, stop_ids=[6, 2])
        assert scores[0].tolist() == pytest.approx([score for score, _ in want], abs=1e-4)
        assert token_ids[0, 0, 3 : 3 + len(want[0][1])].tolist() == want[0][1]


@pytest.mark.parametrize("attention", [{}, MLA], ids=["gqa", "mla"])
@pytest.mark.parametrize("kind", ["beam", "paged"])
def test_going_on_with_a_given_cache_equals_the_whole_prompt(kind, attention, fresh_seed):
    model, rng = make(fresh_seed, vocab_size=9, **attention).double(), random.Random(fresh_seed)  # no ties by rounding
    texts = [[rng.randrange(9) for _ in range(rng.randint(4, 9))] for _ in range(3)]
    prompts, real = left_pad(texts)
    want, want_scores = beam_search(model, prompts, 6, n_beams=3, stop_ids=[2], padding_mask=real)
    pool = block_pool.block_pool(model, 60, block_len=rng.randint(1, 4))
    given = {"beam": lambda: [BeamCache(20) for _ in model.blocks],
             "paged": lambda: paged.paged_caches(model, 3, pool)}[kind]()
    read = rng.randint(1, prompts.shape[1] - 1)
    with torch.no_grad():
        model(prompts[:, :read], real[:, :read], cache=given)
    got, scores = beam_search(
        model, prompts[:, read:], 6, n_beams=3, stop_ids=[2], padding_mask=real, cache=given)
    assert torch.equal(got[:, :, prompts.shape[1] - read :], want[:, :, prompts.shape[1] :])
    torch.testing.assert_close(scores, want_scores, atol=1e-4, rtol=1e-4)
    if kind == "paged":
        n_full = sum(len(text) // pool.block_len for text in texts)  # the blocks that beams of a prompt share
        apart = sum(blocks_needed(len(text) + 6, pool.block_len) - len(text) // pool.block_len for text in texts)
        assert pool.n_used <= n_full + 3 * apart
        paged.release_rows(given)
        assert pool.n_used == 0 and set(pool.ref_counts) == {0}


def test_a_cache_whose_rows_stay_where_they_are_is_refused():
    model = make(0)
    with pytest.raises(ValueError, match="rows of a KVCache can't be exchanged"):
        beam_search(model, torch.tensor([[1]]), 2, n_beams=2, cache=model.new_cache(1, 9))


def test_one_beam_is_greedy(fresh_seed):
    model, prompts = make(fresh_seed, vocab_size=13), torch.randint(0, 13, (4, 5))
    token_ids, scores = beam_search(model, prompts, 8, n_beams=1, length_penalty=0.0)
    assert torch.equal(token_ids[:, 0], generate(model, prompts, 8, temperature=0.0))
    written = tuple(token_ids[0, 0, 5:].tolist())
    want = log_probs_of(model, prompts[0].tolist(), [written])[written]
    assert float(scores[0, 0]) == pytest.approx(want, abs=1e-4)


def test_a_padded_batch_equals_one_by_one(fresh_seed):
    model = make(fresh_seed, vocab_size=11)
    rows = [[3], [1, 2, 3, 4, 5, 6], [9, 9, 4]]
    token_ids, padding_mask = left_pad(rows, pad_id=7)
    options = dict(n_beams=4, stop_ids=[0, 10], pad_id=7)
    together, scores = beam_search(model, token_ids, 9, padding_mask=padding_mask, **options)
    for i, row in enumerate(rows):
        alone, its_scores = beam_search(model, torch.tensor([row]), 9, **options)
        assert torch.equal(alone[0, :, len(row) :], together[i, :, 6:])
        assert torch.allclose(its_scores[0], scores[i], atol=1e-4)


def test_what_is_forbidden_changes_no_other_score(fresh_seed):
    model, prompt, longest = make(fresh_seed), [0, 1], 3
    allowed = {text for text in every_text(5, longest, ()) if sum(text) % 2 == 0 and 3 not in text}

    def only_allowed(token_ids, log_probs):
        ok = torch.zeros_like(log_probs, dtype=torch.bool)
        for row, ids in enumerate(token_ids[:, 2:].tolist()):
            for text in allowed:
                ok[row, text[len(ids)]] |= list(text[: len(ids)]) == ids
        return log_probs.masked_fill(~ok, -math.inf)

    token_ids, scores = beam_search(
        model, torch.tensor([prompt]), longest, n_beams=125, length_penalty=0.0, processors=[only_allowed])
    ranked = sorted(log_probs_of(model, prompt, allowed).values(), reverse=True)
    assert scores[0, : len(allowed)].tolist() == pytest.approx(ranked, abs=1e-4)
    assert bool((scores[0, len(allowed) :] == -math.inf).all())
    assert {tuple(row) for row in token_ids[0, : len(allowed), 2:].tolist()} == allowed


def test_the_mode_may_be_the_empty_text_and_a_length_penalty_mends_it():
    model = make(0, vocab_size=3, position=NoPosition())
    for parameter in model.parameters():
        parameter.data.zero_()
    model.lm_head = torch.nn.Linear(16, 3)  # the same distribution everywhere: 0.25 for the end, 0.75 for 1
    model.lm_head.weight.data.zero_()
    model.lm_head.bias.data = torch.tensor([0.25, 0.75, 1e-9]).log()
    best = {}
    for length_penalty in (0.0, 1.0):
        token_ids, _ = beam_search(
            model, torch.tensor([[1]]), 12, n_beams=4, stop_ids=[0], pad_id=2, length_penalty=length_penalty)
        best[length_penalty] = token_ids[0, 0, 1:].tolist()
    assert best == {0.0: [0] + [2] * 11, 1.0: [1] * 12}


def test_bad_arguments_are_named():
    model = make(0)
    for changes in (dict(n_beams=0), dict(max_new_tokens=0)):
        with pytest.raises(ValueError, match=f"{next(iter(changes))}=0"):
            beam_search(model, torch.tensor([[1]]), **dict(max_new_tokens=2, n_beams=2) | changes)
    with pytest.raises(ValueError, match="pad prompts on the left"):
        beam_search(model, torch.tensor([[1, 0]]), 2, n_beams=2, padding_mask=torch.tensor([[True, False]]))
