r"""What the processes of test_together.py do: many short runs, one after the other. Started by torchrun."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from minillm import tuning
from minillm.training import checkpoint, limits
from minillm.training.callbacks import History
from minillm.training.distributed.launch import joined
from minillm.training.distributed.ranks import PARALLEL, Ranks
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from tests.training.small import counting_batches, small_model, small_tokenizer

STEPS = 6
RECIPES = {"fp32": {}, "fp32 in two batches a step": {"accumulation": 2}, "fp32 recomputed": {"recompute": True},
           "bf16": {"dtype": "bf16"}, "bf16 in two batches a step": {"dtype": "bf16", "accumulation": 2},
           "fp16": {"dtype": "fp16"}}  # fmt: skip
ADAPTERS = {"adapters fp32": {"rank": 2}, "adapters bf16": {"rank": 2, "dtype": "bf16"}}


def new_state(seed: int, ranks: Ranks, dropout: float = 0.0, rank: int = 0, **changes) -> TrainingState:
    r"""A run that begins; of adapters alone if they have a rank."""
    model = small_model(seed, dropout=dropout, n_layers=2)
    if rank:
        model = tuning.lora(model, rank, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed + ranks.rank)  # for dropout
    recipe = Recipe(**{"dtype": "fp32", "warmup_steps": 2, "learning_rate": 1e-2, **changes})
    return TrainingState(model, recipe, ranks)


def go_on(state: TrainingState, generator: torch.Generator, steps: int = STEPS) -> dict:
    r"""Train to the end, of `steps` that make a run of STEPS; what can be compared."""
    history = History()
    batches = itertools.islice(counting_batches(generator), (steps - state.step) * state.recipe.accumulation)
    train(state.model, batches, state=state, steps=STEPS, callbacks=[history])
    weights = state.weights.named_masters()
    whole = {name: w.full_tensor() if hasattr(w, "full_tensor") else w for name, w in weights.items()}
    return {"weights": torch.cat([whole[name].flatten() for name in sorted(whole)]), "tokens": state.tokens,
            **{name: [info[name] for info in history.steps] for name in ("loss", "grad_norm")}}


def whole_run(seed: int, ranks: Ranks, **changes) -> dict:
    r"""A run from its beginning to its end."""
    return go_on(new_state(seed, ranks, **changes), torch.Generator().manual_seed(seed))


def half_run(folder: Path, seed: int, ranks: Ranks, **changes) -> TrainingState:
    r"""Half a run, kept in a folder."""
    generator = torch.Generator().manual_seed(seed)
    state = new_state(seed, ranks, **changes)
    go_on(state, generator, STEPS // 2)
    checkpoint.save(folder, state, small_tokenizer(), generator=generator, about={"seed": seed})
    return state


def other_half(folder: Path, ranks: Ranks) -> dict:
    r"""The rest of it, in these processes."""
    generator = torch.Generator()
    state, _, about = checkpoint.resume(folder, generator=generator, ranks=ranks)
    return {**go_on(state, generator), "about": about}


def steps_by_the_clock(seed: int, ranks: Ranks) -> int:
    r"""Steps of a run of 9 seconds, if a step takes 1 second in the first process and 4 in the second."""
    now = [0.0]
    honest, limits.time = limits.time, SimpleNamespace(perf_counter=lambda: now[0])

    def ticking():
        for batch in counting_batches(torch.Generator().manual_seed(seed)):
            now[0] += 1.0 + 3.0 * ranks.rank
            yield batch

    try:
        state = new_state(seed, ranks)
        return train(state.model, ticking(), state=state, seconds=9.0).step
    finally:
        limits.time = honest


def refusal(seed: int, ranks: Ranks, rows: int, n_counted: int) -> str:
    r"""What is said to a batch of so many rows, of which only the first so many have targets."""
    ids, targets = next(counting_batches(torch.Generator().manual_seed(seed), rows))
    targets[n_counted:] = -100
    state = new_state(seed, ranks)
    try:
        train(state.model, [(ids, targets)], state=state, steps=1)
    except ValueError as error:
        return str(error)
    return "nothing"


def everything(folder: Path, seed: int, ranks: Ranks) -> dict:
    r"""All results of one process, by name."""
    results = {}
    for parallel in PARALLEL:
        own = replace(ranks, parallel=parallel)
        for name, changes in RECIPES.items():
            if not (parallel == "fsdp" and changes.get("recompute")):  # refused, see test_recompute
                results[f"{parallel} {name}"] = whole_run(seed, own, **changes)
        half_run(folder / parallel, seed, own)
        half_run(folder / f"{parallel} dropout", seed, own, dropout=0.2)
        results[f"{parallel} whole with dropout"] = whole_run(seed, own, dropout=0.2)
        results[f"{parallel} resumed with dropout"] = other_half(folder / f"{parallel} dropout", own)
        results[f"{parallel} clock"] = steps_by_the_clock(seed, own)
        results[f"{parallel} odd rows"] = refusal(seed, own, 3, 3)
        results[f"{parallel} no targets"] = refusal(seed, own, 2, 1)
    for name, changes in ADAPTERS.items():
        results[f"ddp {name}"] = whole_run(seed, replace(ranks, parallel="ddp"), **changes)
    try:
        new_state(seed, replace(ranks, parallel="fsdp"), rank=2)
    except ValueError as error:
        results["fsdp adapters"] = str(error)
    for saved, goes_on in itertools.product((*PARALLEL, "alone"), PARALLEL):
        results[f"{saved}, then {goes_on}"] = other_half(folder / saved, replace(ranks, parallel=goes_on))
    return results


def main(folder: Path, seed: int) -> None:
    r"""Join the others, do everything, and write it down."""
    with joined("ddp", "cpu", []) as (ranks, _):
        torch.save(everything(folder, seed, ranks), folder / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
