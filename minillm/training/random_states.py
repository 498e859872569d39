r"""The states of the random generators of a run: what the next dropout and the next batches will be."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from minillm.training.distributed.ranks import Ranks

RANDOM = "random."  # how the names of these tensors begin
BATCHES = RANDOM + "batches"


def collect(device: torch.device, ranks: Ranks, generator: torch.Generator | None) -> dict[str, Tensor]:
    r"""The states of this moment.

    Args:
        device: where the run is.
        ranks: its processes; each has its own dropout, and all have the same batches.
        generator: the source of the batches; None = they have none.
    Returns: `random.torch.RANK` and, on a GPU, `random.cuda.RANK` of this process; `random.batches`; uint8.
    Lesson: 08.
    """
    states = {f"{RANDOM}torch.{ranks.rank}": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"{RANDOM}cuda.{ranks.rank}"] = torch.cuda.get_rng_state(device)
    return states if generator is None else {**states, BATCHES: generator.get_state()}


def wanted(
    saved: Mapping[str, Any], device: torch.device, ranks: Ranks, generator: torch.Generator | None
) -> dict[str, Tensor]:
    r"""Room for the states that a checkpoint has for this process.

    Args:
        saved: `kinds` and `world_size`, as the checkpoint has them.
        device: where the run goes on.
        ranks: the processes that go on with it.
        generator: the source of the batches; None = they have none.
    Returns: by name a tensor to be filled.
    Raises:
        ValueError: if the generator's state was not kept.
    Lesson: 08.
    """
    rank = ranks.rank if saved.get("world_size") == ranks.world_size else 0
    kinds = saved.get("kinds", [])
    if generator is not None and "batches" not in kinds:
        raise ValueError("was saved without the generator of its batches; resume it without one")
    room = {f"{RANDOM}torch.{rank}": torch.get_rng_state()}
    if device.type == "cuda" and "cuda" in kinds:
        room[f"{RANDOM}cuda.{rank}"] = torch.cuda.get_rng_state(device)
    return room if generator is None else {**room, BATCHES: generator.get_state()}


def restore(
    states: Mapping[str, Tensor], saved: Mapping[str, Any], device: torch.device, ranks: Ranks,
    generator: torch.Generator | None,
) -> None:
    r"""Set the generators to these states.

    Args:
        states: from `wanted`, filled.
        saved: as for `wanted`; if another number of processes saved them, dropout begins anew, in each process another.
        device: where the run goes on.
        ranks: the processes that go on with it.
        generator: the source of the batches; changed in place.
    Lesson: 08.
    """
    for name, state in states.items():
        if name == BATCHES:
            generator.set_state(state)
        elif name.startswith(f"{RANDOM}cuda"):
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
    if saved.get("world_size") != ranks.world_size:
        torch.manual_seed(int(torch.randint(2**62, ())) + ranks.rank)
