r"""Generation against a loop without a cache; the filters against sorting by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.config import Rope, preset
from minillm.inference.generate import generate, stream
from minillm.inference.sampling import (
    apply_temperature,
    min_p_filter,
    sample,
    top_k_filter,
    top_p_filter,
    typical_filter,
)
from minillm.model.gpt import GPT


def make(seed):
    torch.manual_seed(seed)
    model = GPT(preset("tiny", vocab_size=23, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, position=Rope())).eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model


def test_greedy_equals_recomputing_everything(fresh_seed):
    model = make(fresh_seed)
    ids = prompt = torch.randint(0, 23, (3, 4))
    for _ in range(10):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    got = generate(model, prompt, 10, temperature=0.0)
    assert torch.equal(got, ids) and got.dtype == torch.int64
    assert torch.equal(torch.stack(list(stream(model, prompt, 10, temperature=0.0)), 1), ids[:, 4:])


def test_left_padded_batch_equals_one_by_one(fresh_seed):
    model = make(fresh_seed)
    rows = [torch.randint(0, 23, (1, n)) for n in (2, 5, 3)]
    ids = torch.cat([torch.nn.functional.pad(row, (5 - row.shape[1], 0)) for row in rows])
    padding_mask = torch.arange(5) >= torch.tensor([[3], [0], [2]])
    got = generate(model, ids, 8, temperature=0.0, padding_mask=padding_mask)
    for row, out in zip(rows, got, strict=True):
        assert torch.equal(generate(model, row, 8, temperature=0.0)[0, row.shape[1] :], out[5:])


def test_stop_ids_fill_finished_rows_and_keep_the_shape(fresh_seed):
    model = make(fresh_seed)
    prompt = torch.randint(0, 23, (4, 3))
    free = generate(model, prompt, 9, temperature=0.0)
    stop = int(free[0, 5])
    got = generate(model, prompt, 9, temperature=0.0, stop_ids=[stop], pad_id=22)
    assert got.shape == free.shape
    for a, b in zip(free[:, 3:].tolist(), got[:, 3:].tolist(), strict=True):
        end = a.index(stop) + 1 if stop in a else 9
        assert b == a[:end] + [22] * (9 - end)


def test_sampling_is_seeded_and_follows_the_distribution(fresh_seed):
    model = make(fresh_seed)
    prompt = torch.randint(0, 23, (1, 3)).expand(4000, 3)
    draws = [generate(model, prompt, 1, generator=torch.Generator().manual_seed(7))[:, -1] for _ in range(2)]
    assert torch.equal(*draws)
    share = torch.bincount(draws[0], minlength=23) / 4000
    want = model(prompt[:1])[0, -1].detach().softmax(-1)
    assert float((share - want).abs().sum()) / 2 < 0.06  # total variation; chance alone gives about 0.03


def test_nothing_is_left_behind(fresh_seed):
    model = make(fresh_seed)
    prompt = torch.randint(0, 23, (1, 3))
    before = prompt.clone()
    out = generate(model, prompt, 0)
    assert torch.equal(out, prompt) and torch.equal(prompt, before)
    assert not generate(model, prompt, 2).is_inference()
    assert torch.is_grad_enabled()


def test_bad_arguments_are_named():
    model, ids = make(0), torch.zeros(1, 2, dtype=torch.int64)
    for kwargs, message in ((dict(temperature=-1.0), "temperature=-1"), (dict(top_k=0), "top_k=0"),
                            (dict(top_p=0.0), r"top_p=0\.0"), (dict(min_p=1.5), r"min_p=1\.5"),
                            (dict(padding_mask=torch.tensor([[True, False]])), "padding_mask")):
        with pytest.raises(ValueError, match=message):
            generate(model, ids, 1, **kwargs)
    with pytest.raises(ValueError, match="max_new_tokens=-1"):
        generate(model, ids, -1)
    with pytest.raises(ValueError, match="at least one prompt token"):
        generate(model, ids[:, :0], 1)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9, unique=True), st.integers(1, 12), st.floats(0.01, 1.0))
def test_filters_equal_sorting_by_hand(row, top_k, share):
    logits = torch.tensor([row], dtype=torch.float64)
    probs = [math.exp(x) / math.fsum(map(math.exp, row)) for x in row]
    order = sorted(range(len(row)), key=lambda i: -row[i])
    nucleus, mass = [], 0.0
    for i in order:
        if mass < share - 1e-12:
            nucleus.append(i)
        mass += probs[i]
    kept = {
        "k": set(order[:top_k]),
        "p": set(nucleus),
        "min": {i for i in order if probs[i] >= share * max(probs)},
    }
    got = {"k": top_k_filter(logits, top_k), "p": top_p_filter(logits, share), "min": min_p_filter(logits, share)}
    for name, want in kept.items():
        assert {i for i in range(len(row)) if got[name][0, i] > -math.inf} == want
        assert all(got[name][0, i] == logits[0, i] for i in want)


def test_temperature_and_greedy():
    logits = torch.tensor([[1.0, 3.0, 3.0]])
    assert apply_temperature(logits, 0.5).tolist() == [[2.0, 6.0, 6.0]]
    assert sample(logits, temperature=0.0).tolist() == [1]
    with pytest.raises(ValueError, match="temperature=0"):
        apply_temperature(logits, 0.0)


@pytest.mark.parametrize("settings", [
    {"typical_p": 0.4}, {"top_k": 9, "typical_p": 0.5}, {"top_p": 0.7}, {"min_p": 0.2, "top_k": 6},
    {"top_k": 15, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.7}])  # fmt: skip
def test_what_is_drawn_is_what_all_filters_leave_in_their_order(settings, fresh_seed):
    model = make(fresh_seed)
    prompt = torch.randint(0, 23, (1, 3), generator=torch.Generator().manual_seed(fresh_seed))
    left = model(prompt)[0, -1].detach() / 1.7
    for name, keep in (("top_k", top_k_filter), ("top_p", top_p_filter), ("min_p", min_p_filter),
                       ("typical_p", typical_filter)):
        left = keep(left, settings[name]) if name in settings else left
    want = left.softmax(-1)
    drawn = generate(model, prompt.expand(4000, 3), 1, temperature=1.7, **settings)[:, -1]
    share = torch.bincount(drawn, minlength=23) / 4000
    assert not share[want == 0].any()
    assert float((share - want).abs().sum()) / 2 < 0.08  # total variation; chance alone gives about 0.03


def test_processors_see_what_was_written_and_change_the_choice(fresh_seed):
    model, prompts, mask = make(fresh_seed), torch.randint(0, 23, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
    mask[1, :2] = False
    seen = []

    def never_twice(token_ids, logits):
        seen.append(token_ids)
        written = torch.zeros(logits.shape[0], logits.shape[1] + 1, dtype=torch.bool)
        return logits.masked_fill(written.scatter(1, token_ids + 1, True)[:, 1:], float("-inf"))

    out = generate(model, prompts, 8, padding_mask=mask, processors=[never_twice])
    assert (seen[0] == prompts.masked_fill(~mask, -1)).all()
    assert (seen[-1][:, 5:] == out[:, 5:-1]).all()
    for row, kept in zip(out, mask, strict=True):
        fresh = row[5:].tolist()
        assert len(set(fresh)) == len(fresh) and not set(fresh) & set(row[:5][kept].tolist())


@pytest.mark.parametrize("n_padding", [0, 3, 6])
def test_going_on_with_a_given_cache_equals_the_whole_prompt(n_padding, fresh_seed):
    model, prompts = make(fresh_seed), torch.randint(0, 23, (3, 9))
    mask = (torch.arange(9) >= torch.tensor([0, 1, n_padding])[:, None]) if n_padding else None
    cache = model.new_cache(3, 16)
    with torch.inference_mode():
        model(prompts[:, :4], None if mask is None else mask[:, :4], cache=cache)
    whole = generate(model, prompts, 6, temperature=0.0, padding_mask=mask)
    got = generate(model, prompts[:, 4:], 6, temperature=0.0, padding_mask=mask, cache=cache)
    assert torch.equal(got, whole[:, 4:])
