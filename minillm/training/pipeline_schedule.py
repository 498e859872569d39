r"""Who does what when in a pipeline of stages.

    GPipe, 2 stages, 3 micro-batches, a tick for each forward (F) or backward pass (B) of one stage:

    stage 0   F0 F1 F2 .  .  B0 B1 B2
    stage 1   .  F0 F1 F2 B0 B1 B2 .           . waits: the bubble
"""

from collections.abc import Sequence
from dataclasses import dataclass

FORWARD, BACKWARD = "F", "B"


@dataclass(frozen=True)
class Slot:
    r"""What a stage does in one tick.

    Args:
        kind: `F` or `B`.
        micro_batch: on which one, from 0.
    Lesson: 08.
    """

    kind: str
    micro_batch: int


def gpipe_order(n_micro_batches: int) -> list[Slot]:
    r"""GPipe: all forward passes, then all backward passes; the same order on every stage.

    Args:
        n_micro_batches: pieces of the batch.
    Returns: what a stage does, one after the other.
    Source: Huang et al. 2018, GPipe, section 2.3 and figure 2c.
    Lesson: 08.
    """
    return [Slot(kind, micro) for kind in (FORWARD, BACKWARD) for micro in range(n_micro_batches)]


def one_f_one_b_order(stage: int, n_stages: int, n_micro_batches: int) -> list[Slot]:
    r"""1F1B: after a few forward passes, each forward pass is followed by a backward pass.

    Args:
        stage: which, from 0.
        n_stages: how many.
        n_micro_batches: pieces of the batch.
    Returns: what the stage does, one after the other.
    Source: Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU Clusters, section 2.2.1.
    Lesson: 08.
    """
    ahead = min(n_stages - 1 - stage, n_micro_batches)
    order = [Slot(FORWARD, micro) for micro in range(ahead)]
    for micro in range(n_micro_batches - ahead):
        order += [Slot(FORWARD, ahead + micro), Slot(BACKWARD, micro)]
    return order + [Slot(BACKWARD, micro) for micro in range(n_micro_batches - ahead, n_micro_batches)]


def timetable(orders: Sequence[Sequence[Slot]]) -> list[list[Slot | None]]:
    r"""When each stage does what, if every pass takes one tick and begins as soon as what it needs is there.

    A forward pass needs that of the stage before; a backward pass needs that of the stage after, or on the last stage
    the forward pass of its own.

    Args:
        orders: for each stage what it does, one after the other.
    Returns: for each stage, tick by tick, what it does; None where it waits.
    Raises:
        ValueError: if the stages wait for each other without end.
    Lesson: 08.
    """
    last = len(orders) - 1
    rows: list[list[Slot | None]] = [[] for _ in orders]
    done: set[tuple[int, Slot]] = set()

    def ready(stage: int, slot: Slot) -> bool:
        if slot.kind == FORWARD:
            return stage == 0 or (stage - 1, slot) in done
        return (stage + 1, slot) in done if stage < last else (stage, Slot(FORWARD, slot.micro_batch)) in done

    todo = [list(order) for order in orders]
    while any(todo):
        begun = [slots[0] if slots and ready(stage, slots[0]) else None for stage, slots in enumerate(todo)]
        if not any(begun):
            raise ValueError(f"orders: nobody can go on; each of {[slots[:1] for slots in todo]} waits for another one")
        for stage, slot in enumerate(begun):
            rows[stage].append(slot)
            if slot is not None:
                todo[stage].pop(0)
                done.add((stage, slot))
    return rows


def idle_share(rows: Sequence[Sequence[Slot | None]]) -> float:
    r"""Which share of the ticks of all stages is spent waiting.

    Args:
        rows: from `timetable`.
    Returns: 0 to 1.
    Lesson: 08.
    """
    slots = [slot for row in rows for slot in row]
    return sum(slot is None for slot in slots) / len(slots)


def bubble_share(n_stages: int, n_micro_batches: int) -> float:
    r"""The share of time that GPipe's stages wait, if all stages and passes take equally long.

    Args:
        n_stages: p.
        n_micro_batches: m.
    Returns: (p - 1) / (m + p - 1).
    Raises:
        ValueError: if one of the two is less than 1.
    Source: Huang et al. 2018, GPipe, section 2.3.
    Lesson: 08.
    """
    if n_stages < 1 or n_micro_batches < 1:
        raise ValueError(f"n_stages={n_stages}, n_micro_batches={n_micro_batches}: use at least 1 of each")
    return (n_stages - 1) / (n_micro_batches + n_stages - 1)


def most_in_flight(row: Sequence[Slot | None]) -> int:
    r"""For how many micro-batches a stage must keep activations at one time.

    Args:
        row: of one stage, from `timetable`.
    Returns: the largest number of forward passes whose backward pass has not been done yet.
    Lesson: 08.
    """
    alive, most = 0, 0
    for slot in row:
        if slot is not None:
            alive += 1 if slot.kind == FORWARD else -1
            most = max(most, alive)
    return most
