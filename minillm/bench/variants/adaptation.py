r"""Adaptation: a model of documentation is to learn stories; how much of them it takes, and what it costs.

Three questions, one base: is a model of one's own better than going on with a general one; what does going on destroy,
and what does replay save of it; and when can the weights of two models be averaged.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from minillm.bench import domains
from minillm.bench.domains import GENERAL, SENTENCES, STORIES
from minillm.bench.variants import harness
from minillm.bench.variants.harness import Row
from minillm.model.gpt import GPT

GENERAL_STEPS, GENERAL_BATCH, STEPS, SCARCE_STEPS, N_LOOKS = 300, 16, 80, 200, 10
SHARES = tuple(i / 8 for i in range(9))  # places on the line between two models


@cache
def base_model(seed: int, steps: int = GENERAL_STEPS) -> GPT:
    r"""The general model, trained once for all that begins with it; do not change it in place.

    Args:
        seed: of weights and windows.
        steps: of training.
    Returns: the model.
    """
    return domains.train_general(seed, steps, GENERAL_BATCH)


def scarcity(n_stories: int, seed: int, steps: int = SCARCE_STEPS) -> dict[str, float]:
    r"""So many stories and no more: read by the general model, and by one that has read nothing else.

    Each is judged at its best moment, so that neither suffers from having read the few stories too often.

    Args:
        n_stories: there are.
        seed: of weights, stories and windows.
        steps: of each.
    Returns: nats a character of unseen stories: "general" before it went on; "continued" and "alone" at their best.
    """
    text = domains.training_text(STORIES, n_stories, seed)
    general, watch = base_model(seed), partial(domains.cost_of, name=STORIES)
    looks: dict[str, Any] = {"watch": watch, "watch_every": max(1, steps // N_LOOKS)}
    _, continued = domains.read_on(general, [text], [1.0], seed, steps, domains.SPECIAL_RATE, **looks)
    fresh = domains.fresh_model(seed)
    _, alone = domains.read_on(fresh, [text], [1.0], seed, steps, domains.GENERAL_RATE, **looks)
    return {"general": watch(general), "continued": min(continued), "alone": min(alone)}


def replay(share: float, seed: int, steps: int = STEPS) -> dict[str, float]:
    r"""Go on with stories, a share of the windows being documentation again.

    Args:
        share: of the windows.
        seed: of weights, stories and windows.
        steps: of training.
    Returns: "stories" and "documentation" after it, nats a character, and "forgotten": by how much the documentation
        has become dearer.
    """
    general = base_model(seed)
    costs = domains.costs_by_text(domains.specialise(general, STORIES, seed, steps, replay=share))
    forgotten = costs[GENERAL] - domains.cost_of(general, GENERAL)
    return {"stories": costs[STORIES], "documentation": costs[GENERAL], "forgotten": forgotten}


def one_base(seed: int, steps: int = STEPS) -> dict[str, Any]:
    r"""Two fine-tunes of one base, one on stories and one on everyday sentences, and the line between their weights.

    Args:
        seed: of weights, texts and windows.
        steps: of each fine-tuning.
    Returns: "stories" and "sentences", the costs along the line (nats a character, at SHARES), "mix", their mean, and
        "mix, both asked", that of averaged probabilities.
    """
    first, second = (domains.specialise(base_model(seed), name, seed, steps) for name in (STORIES, SENTENCES))
    along = [domains.costs_by_text(domains.averaged(first, second, share)) for share in SHARES]
    asked = domains.costs_by_text(domains.together(first, second))
    return {STORIES: [costs[STORIES] for costs in along], SENTENCES: [costs[SENTENCES] for costs in along],
            "mix": [(costs[STORIES] + costs[SENTENCES]) / 2 for costs in along],
            "mix, both asked": (asked[STORIES] + asked[SENTENCES]) / 2}


def two_bases(seed: int) -> dict[str, Any]:
    r"""Two models of the same text that began with different weights, and the line between them.

    Args:
        seed: of the first; the second has the next.
    Returns: "documentation", the cost along the line (nats a character, at SHARES), and "documentation, both asked".
    """
    first, second = base_model(seed), base_model(seed + 1)
    along = [domains.cost_of(domains.averaged(first, second, share), GENERAL) for share in SHARES]
    return {GENERAL: along, "documentation, both asked": domains.cost_of(domains.together(first, second), GENERAL)}


Measure = Callable[[int], Mapping[str, Any]]
QUESTIONS: dict[str, Measure] = {
    **{f"{n} stories": partial(scarcity, n) for n in (4, 16, 64)},
    **{f"replay {share:.0%}": partial(replay, share) for share in (0.0, 0.05, 0.2, 0.5)},
    "line, one base": one_base,
    "line, two bases": two_bases,
}


def adaptation_table(seeds: Sequence[int]) -> list[Row]:
    r"""The table of adaptation.

    Args:
        seeds: runs of each question.
    Returns: a row a question.
    """
    return harness.run_table("adaptation", QUESTIONS, seeds, lambda ask, seed: ask(seed))
