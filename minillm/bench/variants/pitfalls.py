r"""What goes wrong with LoRA and its friends: each popular mistake, made on purpose, with the number that it costs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from minillm import tuning
from minillm.bench import domains, traps, tuned
from minillm.bench.domains import GENERAL, STORIES
from minillm.bench.variants import adaptation, harness
from minillm.bench.variants.harness import Row
from minillm.model.counting import n_trainable

RANKS, FEW_STORIES, LAYER_RATES = (2, 8, 32, 64), 4, (3e-3, 1e-2, 3e-2)
SHARED_RATES, MERGE_RATES, LORA_RATE, STEPS = (1e-3, 3e-3, 1e-2, 3e-2), (3e-4, 1e-3, 3e-3, 1e-2), 1e-2, 60


def learned(make: tuned.Tune, seed: int, learning_rate: float = LORA_RATE, steps: int = STEPS) -> float:
    r"""What stories cost after a model has been tuned to them.

    Args:
        make: base -> the model to train.
        seed: of base, parts, stories and windows.
        learning_rate: the largest one.
        steps: of training.
    Returns: nats a character of unseen stories.
    """
    model = tuned.tuned_fresh(make, adaptation.base_model(seed), seed)
    tuned.learn(model, domains.training_text(STORIES, seed=seed), seed, learning_rate, steps)
    return domains.cost_of(model, STORIES)


def both_zero(seed: int, steps: int = STEPS) -> dict[str, float]:
    r"""LoRA with lora_a as zero as lora_b is.

    Args:
        seed: of everything.
        steps: of training.
    Returns: cost of stories "before" and "after", the same with lora_a at random, and "largest", what is furthest from
        zero in any factor after training.
    """
    base = adaptation.base_model(seed)
    model = traps.without_chance(traps.lora_of(4)(base))
    tuned.learn(model, domains.training_text(STORIES, seed=seed), seed, LORA_RATE, steps)
    largest = max(float(factor.detach().abs().max()) for factor in traps.trained(model))
    return {"before": domains.cost_of(base, STORIES), "after": domains.cost_of(model, STORIES), "largest": largest,
            "lora_a at random": learned(traps.lora_of(4), seed, steps=steps)}


def scaled_by_rank(seed: int, steps: int = STEPS) -> dict[str, list[float]]:
    r"""The rank is raised, and alpha stays: 16 over the rank, against rsLoRA's over its root; equal at rank 8.

    Args:
        seed: of everything.
        steps: of training.
    Returns: for each of RANKS the cost of stories with "alpha / rank" and with "alpha / sqrt(rank)".
    """
    rules = {"alpha / rank": {"alpha": 16.0}, "alpha / sqrt(rank)": {"alpha": 16 / 8**0.5, "rank_stabilized": True}}
    return {name: [learned(partial(tuning.lora, rank=rank, **rule), seed, steps=steps) for rank in RANKS]
            for name, rule in rules.items()}


def which_layers(seed: int, steps: int = STEPS) -> dict[str, Any]:
    r"""As many trained numbers in the matrices of queries and values alone, or in all of them.

    Args:
        seed: of everything.
        steps: of training.
    Returns: "trainable", for both the same, and the costs of stories at LAYER_RATES: "q, v, rank 18", "all, rank 4".
    """
    choices = {"q, v, rank 18": traps.lora_of(18, ("q_proj", "v_proj")), "all, rank 4": traps.lora_of(4)}
    sizes = {n_trainable(make(adaptation.base_model(seed))) for make in choices.values()}
    assert len(sizes) == 1
    costs = {name: [learned(make, seed, rate, steps) for rate in LAYER_RATES] for name, make in choices.items()}
    return {"trainable": sizes.pop(), **costs}


def little_data(seed: int, steps: int = 2 * STEPS) -> dict[str, list[float]]:
    r"""Four stories, read again and again, at every rank.

    Args:
        seed: of everything.
        steps: of training.
    Returns: for each of RANKS the cost of the four ("seen"), and of stories that nobody has seen ("unseen").
    """
    text = domains.training_text(STORIES, FEW_STORIES, seed)
    costs: dict[str, list[float]] = {"seen": [], "unseen": []}
    for rank in RANKS:
        model = tuned.tuned_fresh(traps.lora_of(rank), adaptation.base_model(seed), seed)
        tuned.learn(model, text, seed, LORA_RATE, steps)
        costs["seen"].append(tuned.cost_on(model, text))
        costs["unseen"].append(domains.cost_of(model, STORIES))
    return costs


def rates(seed: int, steps: int = STEPS) -> dict[str, list[float]]:
    r"""Full fine-tuning and LoRA at the same learning rates.

    Args:
        seed: of everything.
        steps: of training.
    Returns: the cost of stories for each of SHARED_RATES: "full fine-tuning", "LoRA, rank 16", whose scaling is 1.
    """
    return {name: [learned(tuned.METHODS[name], seed, rate, steps) for rate in SHARED_RATES]
            for name in ("full fine-tuning", "LoRA, rank 16")}


def merged_and_rounded(
    seed: int, steps: int = STEPS, learning_rates: Sequence[float] = MERGE_RATES
) -> dict[str, list[float]]:
    r"""LoRA on a base in 4 bits, merged, and rounded to 4 bits again: small changes and large ones.

    Args:
        seed: of everything.
        steps: of training.
        learning_rates: the higher, the larger the change.
    Returns: a number for each of them: "change", its length as a share of the matrices'; "error", that of the second
        rounding as a share of the change's; cost of stories for the "rounded base", with the change "beside it",
        "merged in floats", and "merged and rounded".
    """
    rounded = traps.rounded_model(adaptation.base_model(seed))
    text, found = domains.training_text(STORIES, seed=seed), {}
    for rate in learning_rates:
        model = tuned.tuned_fresh(traps.lora_of(4), rounded, seed)
        tuned.learn(model, text, seed, rate, steps)
        merged = tuning.merged(model)
        again = traps.rounded_model(merged)
        change = traps.distance(merged, rounded)
        lengths = {"change": change / traps.length_of(rounded), "error": traps.distance(again, merged) / change}
        stages = {"rounded base": rounded, "beside it": model, "merged in floats": merged, "merged and rounded": again}
        costs = {name: domains.cost_of(stage, STORIES) for name, stage in stages.items()}
        for name, value in (lengths | costs).items():
            found.setdefault(name, []).append(value)
    return found


def a_new_token(seed: int, steps: int = STEPS) -> dict[str, float]:
    r"""Stories end with a token that the base has never read: with its vector frozen, and with it trained.

    Args:
        seed: of everything.
        steps: of training.
    Returns: nats where the new token is due, and at all other places: "frozen, new", "frozen, others", and so on.
    """
    base = traps.with_new_token(adaptation.base_model(seed), seed)
    found = {}
    for name, make in (("frozen", traps.lora_of(4)), ("trained", traps.lora_with_embedding)):
        model = tuned.tuned_fresh(make, base, seed)
        tuned.learn(model, traps.marked(domains.training_text(STORIES, seed=seed)), seed, LORA_RATE, steps)
        at_end, elsewhere = traps.costs_at(model, traps.marked(domains.unseen_windows(STORIES)), traps.NEW_TOKEN)
        found |= {f"{name}, new": at_end, f"{name}, others": elsewhere}
    return found


def factorized(seed: int, rank: int = 16) -> dict[str, float]:
    r"""The myth that LoRA factorizes W: what documentation costs once every matrix is cut down to a low rank.

    Args:
        seed: of the base.
        rank: of what is left of each.
    Returns: the cost of documentation, "whole" and "cut"; "rank of W", the lowest rank of a matrix before.
    """
    base = adaptation.base_model(seed)
    ranks = [int(torch.linalg.matrix_rank(weight.double())) for weight in traps.block_weights(base).values()]
    return {"whole": domains.cost_of(base, GENERAL), "cut": domains.cost_of(traps.cut_to_rank(base, rank), GENERAL),
            "rank of W": min(ranks)}


QUESTIONS: Mapping[str, Callable[[int], Mapping[str, Any]]] = {
    "both factors zero": both_zero,
    "alpha not rescaled": scaled_by_rank,
    "which layers": which_layers,
    "four stories": little_data,
    "learning rates": rates,
    "merged into 4 bits": merged_and_rounded,
    "checkpointing": traps.checkpointed,
    "a new token": a_new_token,
    "W factorized": factorized,
    "a prompt as text": traps.prompt_as_text,
}


def pitfalls_table(seeds: Sequence[int]) -> list[Row]:
    r"""The table of pitfalls.

    Args:
        seeds: runs of each.
    Returns: a row a pitfall.
    """
    return harness.run_table("pitfalls", QUESTIONS, seeds, lambda ask, seed: ask(seed))
