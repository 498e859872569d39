r"""Tuning: one model of documentation learns stories by every method, and what each of them takes and gives."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from minillm import tuning
from minillm.bench import domains, tuned, tuning_costs
from minillm.bench.domains import GENERAL, STORIES
from minillm.bench.variants import adaptation, harness
from minillm.bench.variants.harness import Row
from minillm.model.counting import n_trainable

AS_IT_IS = "the base"


def deployed(model: nn.Module) -> nn.Module:
    r"""A tuned model as one would put it to work: merged where that is possible, helpers of the training thrown away.

    Args:
        model: tuned.
    Returns: what computes the same and costs least.
    """
    if not hasattr(model, "card"):
        return model
    finished = tuning.finished(model)
    try:
        return tuning.merged(finished)
    except ValueError:  # adapters with a bend in them, prompts, a base in few bits
        return finished


def file_bytes(model: nn.Module) -> int:
    r"""How large the file is that has to be handed on: the small part alone, or all of a model that has none.

    Args:
        model: tuned.
    Returns: bytes.
    """
    if not hasattr(model, "card"):
        return sum(parameter.nbytes for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        tuning.save(tuning.finished(model), path)
        return path.stat().st_size


def measure_base(seed: int) -> dict[str, Any]:
    r"""What the base costs and knows, before anything is tuned.

    Args:
        seed: of the base.
    Returns: "stories" and "documentation", nats a character; "flops" and "products" of one more token.
    """
    base = adaptation.base_model(seed)
    return {"stories": domains.cost_of(base, STORIES), "documentation": domains.cost_of(base, GENERAL),
            **tuning_costs.token_cost(base)}


def measure_method(method: str, seed: int, steps: int = tuned.STEPS, rate: float | None = None) -> dict[str, Any]:
    r"""One method with one seed.

    Args:
        method: a name in `tuned.METHODS`.
        seed: of base, parts, stories and windows.
        steps: of training.
        rate: the largest learning rate; None = the best on another seed.
    Returns: "trainable" numbers; bytes while it is trained, part by part, and "training bytes", all of them;
        "file bytes"; "stories" and "documentation", nats a character, and "forgotten", by how much the latter has
        become dearer; "flops" and "products" of one more token, and the same "deployed"; "learning rate".
    """
    rate = tuned.best_rate(method, steps)[0] if rate is None else rate
    state = tuned.tuning_run(method, seed, rate, steps)
    model = state.model
    batch = next(tuned.windows_of(domains.training_text(STORIES, seed=seed), seed))
    memory = tuning_costs.training_memory(state, batch)
    costs = {name: domains.cost_of(model, name) for name in (STORIES, GENERAL)}
    working, ready = tuning_costs.token_cost(model), tuning_costs.token_cost(deployed(model))
    return {
        "trainable": n_trainable(model),
        "training bytes": memory.pop("total"), **memory, "file bytes": file_bytes(model),
        **costs, "forgotten": costs[GENERAL] - domains.cost_of(adaptation.base_model(seed), GENERAL),
        **working, **{f"{name}, deployed": count for name, count in ready.items()}, "learning rate": rate,
    }


def measure_row(name: str, seed: int) -> dict[str, Any]:
    r"""One line of the table with one seed.

    Args:
        name: AS_IT_IS, or a method.
        seed: of everything.
    Returns: as `measure_base`; or as `measure_method`, and the cost of stories at each of `tuned.RATES` on the seed
        that rates are chosen on.
    """
    if name == AS_IT_IS:
        return measure_base(seed)
    return measure_method(name, seed) | {f"seed {tuned.RATE_SEED}, by rate": tuned.best_rate(name)[1]}


def tuning_table(seeds: Sequence[int]) -> list[Row]:
    r"""The table of tuning.

    Args:
        seeds: runs of each method.
    Returns: a row a method, and one for the base.
    """
    names = (AS_IT_IS, *tuned.METHODS)
    return harness.run_table("tuning", {name: name for name in names}, seeds, measure_row)
