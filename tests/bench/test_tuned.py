r"""The table of tuning: bytes and operations are those that one can count by hand, and the base is left alone."""

import copy
import itertools
from functools import partial

import pytest
import torch

from minillm import tuning
from minillm.bench import domains, results, tuned, tuning_costs
from minillm.bench.variants import adaptation, harness
from minillm.bench.variants import tuning as table
from minillm.model import counting
from minillm.model.gpt import GPT

D, F, L, T = 64, 256, 2, tuned.LENGTH
SIDES = [(D, D)] * 4 + [(D, F), (F, D)]  # of the matrices of a block
TRAINABLE = {
    "full fine-tuning": counting.count_parameters(harness.BASE)["total"],
    **{name: L * int(name.split()[-1]) * sum(map(sum, SIDES)) for name in tuned.METHODS if "rank" in name},
    "prompt tuning": T * D,
    "P-tuning v2": 2 * L * T * D,
}


@pytest.fixture
def base(fresh_seed: int, monkeypatch: pytest.MonkeyPatch) -> GPT:
    r"""A model whose blocks do something, in the place of one that would have to be trained."""
    model, generator = domains.fresh_model(fresh_seed), torch.Generator().manual_seed(fresh_seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    monkeypatch.setattr(adaptation, "base_model", lambda seed: model)
    return model


def test_what_autograd_keeps_is_what_a_chain_of_layers_needs(fresh_seed: int):
    n, widths = 7, (5, 11, 3)
    layers = torch.nn.Sequential(torch.nn.Linear(5, 11), torch.nn.Tanh(), torch.nn.Linear(11, 3))
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(fresh_seed))
    with tuning_costs.activations_kept(layers) as kept:
        layers(x)
    assert kept["bytes"] == 4 * n * (widths[0] + widths[1])  # the input, and what tanh gave; the weights not
    layers[0].requires_grad_(False)
    with tuning_costs.activations_kept(layers) as kept:
        layers(x)
    assert kept["bytes"] == 4 * n * widths[1]  # nothing before the first trained layer


def test_a_storage_counts_once():
    x = torch.zeros(10, dtype=torch.float64)
    assert tuning_costs.storage_bytes([x, x[:3], x.view(2, 5)]) == 80


def test_a_token_of_the_base_costs_what_the_formula_says(base: GPT):
    for kv_len in (3, 64):
        cost = tuning_costs.token_cost(base, kv_len)
        assert cost["flops"] == counting.flops_per_token(base.config, kv_len + 1)["total"]
        assert cost["products"] == L * (len(SIDES) + 2) + 1  # scores, weighted values; the head


@pytest.mark.parametrize("rank", [1, 5])
def test_lora_costs_two_thin_products_a_matrix_until_it_is_merged(base: GPT, rank: int):
    model, plain = tuning.lora(base, rank), tuning_costs.token_cost(base)
    cost = tuning_costs.token_cost(model)
    assert cost["flops"] - plain["flops"] == 2 * L * rank * sum(map(sum, SIDES))
    assert cost["products"] - plain["products"] == 2 * L * len(SIDES)
    assert tuning_costs.token_cost(table.deployed(model)) == plain


@pytest.mark.parametrize("method", list(tuned.METHODS))
def test_two_steps_of_every_method(base: GPT, method: str, fresh_seed: int):
    before = copy.deepcopy(base.state_dict())
    found = table.measure_method(method, fresh_seed, steps=2, rate=1e-3)
    for name, weight in base.state_dict().items():
        assert torch.equal(weight, before[name]), name
    if method in TRAINABLE:
        assert found["trainable"] == TRAINABLE[method]
    assert found["gradients"] == 4 * found["trainable"] and found["moments"] == 8 * found["trainable"]
    parts = ("weights", "gradients", "moments", "activations")
    assert found["training bytes"] == sum(found[part] for part in parts) and found["activations"] > 0
    n_base = TRAINABLE["full fine-tuning"]
    if method == "full fine-tuning":
        assert found["weights"] == found["file bytes"] == 4 * n_base and found["forgotten"] != 0
    elif method == "QLoRA, rank 4":
        assert found["weights"] < 3 * n_base
    else:
        assert found["weights"] == 4 * (n_base + found["trainable"])
        assert found["file bytes"] < found["weights"]
    plain = tuning_costs.token_cost(base)
    assert all(found[f"{name}, deployed"] <= found[name] for name in plain)
    mergeable = method == "full fine-tuning" or method.startswith(("LoRA", "rsLoRA"))
    assert mergeable == all(found[f"{name}, deployed"] == plain[name] for name in plain)


def test_learning_lowers_the_cost_and_runs_are_repeated(base: GPT, fresh_seed: int):
    costs = [domains.cost_of(tuned.tuning_run("LoRA, rank 4", fresh_seed, 3e-3, steps=8).model, domains.STORIES)
             for _ in range(2)]
    assert costs[0] == pytest.approx(costs[1], abs=1e-4) and costs[0] < domains.cost_of(base, domains.STORIES)


def test_rates_are_tried_on_a_seed_of_their_own(base: GPT):
    make = partial(tuning.lora, rank=1)
    costs = tuned.rate_trials(make, steps=3, rates=(1e-3, 1e-2))
    assert len(costs) == 2 and costs == pytest.approx(tuned.rate_trials(make, steps=3, rates=(1e-3, 1e-2)), abs=1e-4)


def test_cost_on_a_text_is_that_of_its_windows(base: GPT):
    text = domains.training_text(domains.STORIES, 8)
    windows = torch.stack([text[start : start + 65] for start in (0, 65)])
    with torch.no_grad():
        log_probs = base(windows[:, :-1]).double().log_softmax(-1)
    want = -log_probs.gather(2, windows[:, 1:, None]).mean()
    assert tuned.cost_on(base, text, 2) == pytest.approx(float(want), rel=1e-4)


def test_the_stored_table_says_what_the_lesson_says():
    rows = {row["name"]: row["values"] for row in results.load_table("tuning")["rows"]}
    plain = rows.pop(table.AS_IT_IS)
    assert list(rows) == list(tuned.METHODS)
    for name, row in rows.items():
        if name in TRAINABLE:
            assert set(row["trainable"]) == {TRAINABLE[name]}
        for seed in range(3):
            assert row["stories"][seed] < plain["stories"][seed] - 0.05 and row["forgotten"][seed] > 0
            by_rate = row[f"seed {tuned.RATE_SEED}, by rate"][seed]
            assert 0 < by_rate.index(min(by_rate)) < len(by_rate) - 1, f"{name}: the best rate lies at an edge"
    by_size = [rows[name] for name in ("LoRA, rank 1", "LoRA, rank 4", "LoRA, rank 16", "full fine-tuning")]
    for fewer, more in itertools.pairwise(by_size):
        for seed in range(3):
            assert more["stories"][seed] < fewer["stories"][seed] - 0.05
            assert more["forgotten"][seed] > fewer["forgotten"][seed] + 0.2
    for seed in range(3):
        shallow = [rows[name]["stories"][seed] for name in ("prompt tuning", "P-tuning v1")]
        deep = [rows[name]["stories"][seed] for name in ("prefix tuning", "P-tuning v2")]
        assert max(deep) < min(shallow) - 0.2
    lora, houlsby, full = (rows[name]["activations"][0] for name in (
        "LoRA, rank 4", "Houlsby adapters", "full fine-tuning"))
    assert lora > 0.9 * full > houlsby
