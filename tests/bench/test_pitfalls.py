r"""The traps of tuning are what they say: zeros stay zeros, cuts have their rank, marks stand where stories end."""

import copy

import pytest
import torch

from minillm.bench import domains, results, traps
from minillm.bench.domains import STORIES
from minillm.bench.variants import adaptation, harness, pitfalls
from minillm.model.gpt import GPT


@pytest.fixture
def base(fresh_seed: int, monkeypatch: pytest.MonkeyPatch) -> GPT:
    r"""A model whose blocks do something, in the place of one that would have to be trained."""
    model, generator = domains.fresh_model(fresh_seed), torch.Generator().manual_seed(fresh_seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    monkeypatch.setattr(adaptation, "base_model", lambda seed: model)
    return model


def test_both_zero_stays_zero_and_one_does_not(base: GPT, fresh_seed: int):
    found = pitfalls.both_zero(fresh_seed, steps=4)
    assert found["largest"] == 0.0 and found["before"] == found["after"] != found["lora_a at random"]


def test_matrices_are_cut_to_the_rank_and_nothing_else_is(base: GPT):
    before = copy.deepcopy(base.state_dict())
    cut = traps.cut_to_rank(base, 5)
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    for name, weight in traps.block_weights(cut).items():
        singular = torch.linalg.svdvals(weight.double())
        assert (singular[5:] < 1e-5 * singular[0]).all() and singular[4] > 1e-3 * singular[0], name
        rest = torch.linalg.svdvals(traps.block_weights(base)[name].double())[5:].norm()
        error = (weight - traps.block_weights(base)[name]).double().norm()
        assert float(error) == pytest.approx(float(rest), rel=1e-3)  # Eckart and Young
    assert torch.equal(cut.tok_emb.weight, base.tok_emb.weight)


def test_rounding_twice_is_rounding_once(base: GPT):
    once = traps.rounded_model(base)
    length = traps.length_of(base)
    assert 0.01 * length < traps.distance(once, base) < 0.3 * length
    assert traps.distance(traps.rounded_model(once), once) < 1e-5 * length
    assert len(traps.block_weights(once)["0.attn.q_proj"][0, :32].unique()) <= 16


def test_distance_is_that_of_all_numbers_at_once(base: GPT, fresh_seed: int):
    generator = torch.Generator().manual_seed(fresh_seed)
    changes = []

    def shift(weight: torch.Tensor) -> torch.Tensor:
        changes.append(torch.randn(weight.shape, generator=generator))
        return weight + changes[-1]

    moved = traps.with_weights(base, shift)
    want = torch.cat([change.flatten() for change in changes]).norm()
    whole = torch.cat([weight.flatten() for weight in traps.block_weights(base).values()]).double().norm()
    assert traps.length_of(base) == pytest.approx(float(whole), rel=1e-4)
    assert traps.distance(moved, base) == pytest.approx(float(want), rel=1e-4) and len(changes) == 12


def test_a_new_token_changes_nothing_else(base: GPT, fresh_seed: int):
    larger = traps.with_new_token(base, fresh_seed)
    token_ids = domains.unseen_windows(STORIES)[:3, :-1]
    with torch.no_grad():
        assert torch.allclose(larger(token_ids)[..., :-1], base(token_ids), atol=1e-5)
    assert larger.config.vocab_size == len(harness.ALPHABET) + 1 == traps.NEW_TOKEN + 1
    assert larger.lm_head.weight is larger.tok_emb.weight


def test_marks_stand_where_stories_end():
    text = domains.training_text(STORIES, 5)
    marked = traps.marked(text)
    assert int((marked == traps.NEW_TOKEN).sum()) == 5 and marked[-1] == traps.NEW_TOKEN
    assert torch.equal(marked[marked != traps.NEW_TOKEN], text[text != traps.LINE_FEED])


def test_costs_at_a_token_and_elsewhere_make_up_the_whole(base: GPT):
    windows = domains.unseen_windows(STORIES)
    due = windows[:, 1:] == traps.LINE_FEED
    at_end, elsewhere = traps.costs_at(base, windows, traps.LINE_FEED)
    share = float(due.double().mean())
    assert 0 < share < 0.1
    assert share * at_end + (1 - share) * elsewhere == pytest.approx(domains.cost_of(base, STORIES), rel=1e-4)


def test_a_trained_embedding_is_a_copy_that_head_and_input_share(base: GPT):
    made = traps.lora_with_embedding(base)
    assert made.lm_head.weight is made.tok_emb.weight and made.tok_emb.weight.requires_grad
    assert made.tok_emb.weight.data_ptr() != base.tok_emb.weight.data_ptr()
    assert torch.equal(made.tok_emb.weight, base.tok_emb.weight)


def test_reentrant_checkpoints_of_a_frozen_base_give_no_gradient(base: GPT, fresh_seed: int):
    found = traps.checkpointed(fresh_seed)
    assert found == {"reentrant": 0, "require grad": 12, "not reentrant": 12, "ours": 12, "of": 12}


def test_a_prompt_becomes_the_tokens_that_are_most_like_it(base: GPT, fresh_seed: int):
    still = traps.prompt_as_text(fresh_seed, 1, 1e-9, (2, 6))  # as they began: vectors of real tokens
    assert still["cosine"] == pytest.approx(1, abs=1e-4)
    assert still["6 vectors"] == pytest.approx(still["nearest tokens"], abs=1e-4)


def test_few_steps_give_every_measure(base: GPT, fresh_seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pitfalls, "RANKS", (2, 64))
    monkeypatch.setattr(pitfalls, "SHARED_RATES", (1e-3, 3e-3))
    for ask in (pitfalls.scaled_by_rank, pitfalls.little_data, pitfalls.rates):
        assert all(len(costs) == 2 for costs in ask(fresh_seed, steps=1).values())
    layers = pitfalls.which_layers(fresh_seed, steps=1)
    assert layers.pop("trainable") == 2 * 4 * 1152 and all(len(costs) == 3 for costs in layers.values())
    merged = pitfalls.merged_and_rounded(fresh_seed, 2, (1e-3, 1e-2))
    assert all(len(values) == 2 for values in merged.values()) and merged["change"][0] < merged["change"][1]
    assert set(pitfalls.a_new_token(fresh_seed, steps=1)) == {
        "frozen, new", "frozen, others", "trained, new", "trained, others"}
    assert pitfalls.factorized(fresh_seed)["rank of W"] == 64


def test_the_stored_table_says_what_the_lesson_says():
    rows = {row["name"]: row["values"] for row in results.load_table("pitfalls")["rows"]}
    assert list(rows) == list(pitfalls.QUESTIONS)
    for seed in range(3):
        found = {name: {key: values[seed] for key, values in row.items()} for name, row in rows.items()}
        zero, scaled = found["both factors zero"], found["alpha not rescaled"]
        assert zero["largest"] == 0 and zero["before"] == zero["after"] > zero["lora_a at random"] + 0.5
        plain, rooted = scaled["alpha / rank"], scaled["alpha / sqrt(rank)"]
        assert plain[1] == pytest.approx(rooted[1], abs=1e-3) and rooted[1] - rooted[-1] > 2 * (plain[1] - plain[-1])
        assert min(found["which layers"]["all, rank 4"]) < min(found["which layers"]["q, v, rank 18"]) - 0.2
        few, rates = found["four stories"], found["learning rates"]
        assert few["seen"][-1] < few["seen"][0] / 2 and few["unseen"][-1] > few["unseen"][1] + 0.05
        best = [costs.index(min(costs)) for costs in (rates["full fine-tuning"], rates["LoRA, rank 16"])]
        assert best[0] < best[1]
        merged = found["merged into 4 bits"]
        assert sorted(merged["error"], reverse=True) == merged["error"] and merged["error"][0] > 1
        gains = [[base - cost for base, cost in zip(merged["rounded base"], merged[name], strict=True)]
                 for name in ("beside it", "merged and rounded")]
        assert gains[1][0] < gains[0][0] / 2 and gains[1][-1] > 0.9 * gains[0][-1]
        token, prompt = found["a new token"], found["a prompt as text"]
        assert token["frozen, new"] > 3 > token["trained, new"] + 0.5
        assert found["W factorized"]["cut"] > found["W factorized"]["whole"] + 0.3
        assert found["W factorized"]["rank of W"] == 64
        assert prompt["20 vectors"] < prompt["no prompt"] - 0.05 < prompt["nearest tokens"]
