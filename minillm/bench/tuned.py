r"""One task for every method of tuning: a model that has read documentation learns to tell stories.

The base, the stories, the windows and the number of steps are the same for all. The learning rate is not: what suits
one method ruins another, so each gets its own, found on a seed that the table does not use.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from minillm import tuning
from minillm.bench import domains
from minillm.bench.domains import BATCH_SIZE, SEQ_LEN, STORIES
from minillm.bench.variants import adaptation, harness
from minillm.text import batches
from minillm.training.loop import train
from minillm.training.state import TrainingState

STEPS, LENGTH = 100, 20
RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
RATE_SEED, BURST = 99, 99.0  # nats: a JSON file has no infinity
Tune = Callable[[nn.Module], nn.Module]


def unfrozen(model: nn.Module) -> nn.Module:
    r"""Full fine-tuning: a copy of a model, every number of which may change.

    Args:
        model: the base; it stays as it is.
    Returns: the copy.
    """
    return copy.deepcopy(model).requires_grad_(True)


METHODS: Mapping[str, Tune] = {
    "full fine-tuning": unfrozen,
    **{f"LoRA, rank {rank}": partial(tuning.lora, rank=rank) for rank in (1, 4, 16)},
    "rsLoRA, rank 16": partial(tuning.lora, rank=16, rank_stabilized=True),
    "QLoRA, rank 4": partial(tuning.qlora, rank=4),
    "Houlsby adapters": partial(tuning.houlsby_adapters, width=16),
    "parallel adapters": partial(tuning.parallel_adapters, width=32),
    "prompt tuning": partial(tuning.prompt_tuning, length=LENGTH),
    "P-tuning v1": partial(tuning.p_tuning, template=(LENGTH // 2, LENGTH - LENGTH // 2)),
    "prefix tuning": partial(tuning.prefix_tuning, length=LENGTH),
    "P-tuning v2": partial(tuning.p_tuning_v2, length=LENGTH),
}


def tuned_fresh(method: Tune, base: nn.Module, seed: int) -> nn.Module:
    r"""A model with a method's fresh parts, which begin at chance.

    Args:
        method: base -> the model to train.
        base: what it stands on.
        seed: of the parts.
    Returns: the model, untrained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method(base)


def windows_of(text: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Random windows of a text without end.

    Args:
        text: token ids, (n,).
        seed: of the windows.
    Yields: inputs and targets, (BATCH_SIZE, SEQ_LEN) each.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield batches.next_token_batch(text, SEQ_LEN, BATCH_SIZE, generator)


def learn(
    model: nn.Module, text: Tensor, seed: int, learning_rate: float, steps: int = STEPS
) -> TrainingState:
    r"""Train what is trainable in a model, in place; no weight decay, so that nothing but the text moves it.

    Args:
        model: token ids -> logits.
        text: token ids, (n,).
        seed: of the windows.
        learning_rate: the largest one.
        steps: of AdamW.
    Returns: the state of the run.
    """
    recipe = replace(harness.small_recipe(steps, learning_rate), weight_decay=0.0)
    return train(model, windows_of(text, seed), recipe, steps=steps, report_every=steps)


def tuning_run(method: str, seed: int, learning_rate: float, steps: int = STEPS) -> TrainingState:
    r"""One method on the stories, from its beginning.

    Args:
        method: a name in METHODS.
        seed: of base, parts, stories and windows.
        learning_rate: the largest one.
        steps: of AdamW.
    Returns: the state of the run; its model is tuned.
    """
    model = tuned_fresh(METHODS[method], adaptation.base_model(seed), seed)
    return learn(model, domains.training_text(STORIES, seed=seed), seed, learning_rate, steps)


def cost_on(model: Callable[[Tensor], Tensor], text: Tensor, n_windows: int = 64) -> float:
    r"""What the beginning of a text costs a model.

    Args:
        model: token ids -> logits.
        text: token ids, (n,).
        n_windows: how much of it, at most.
    Returns: nats a character.
    """
    return domains.cost_of_windows(model, domains.side_by_side(text)[:n_windows])


def rate_trials(method: Tune, steps: int = STEPS, rates: tuple[float, ...] = RATES) -> list[float]:
    r"""How a method does at each learning rate, on the seed and the stories that are for nothing but that.

    Args:
        method: base -> the model to train.
        steps: of each run.
        rates: to be tried.
    Returns: nats a character of stories for each rate; BURST for what has burst.
    """
    text = domains.training_text(STORIES, seed=RATE_SEED)
    judge = domains.training_text(STORIES, seed=RATE_SEED + 1)
    costs = []
    for rate in rates:
        model = tuned_fresh(method, adaptation.base_model(RATE_SEED), RATE_SEED)
        try:
            learn(model, text, RATE_SEED, rate, steps)
            cost = cost_on(model, judge)
        except ValueError:  # the loss has stopped being a number
            cost = BURST
        costs.append(min(BURST, cost))  # in this order: not a number is not less
    return costs


@cache
def best_rate(method: str, steps: int = STEPS) -> tuple[float, tuple[float, ...]]:
    r"""The learning rate for a method: as long as the highest of RATES is the best, a higher one is tried too.

    Args:
        method: a name in METHODS.
        steps: of each run.
    Returns: the best rate, and the cost at each of RATES and those above it that were tried.
    """
    rates = [*RATES]
    costs = rate_trials(METHODS[method], steps)
    while costs[-1] == min(costs) < BURST:
        rates.append(10 * rates[-2])
        costs += rate_trials(METHODS[method], steps, (rates[-1],))
    return min(zip(costs, rates, strict=True))[1], tuple(costs)
