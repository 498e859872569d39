r"""The cache stepper: its states are those of the caches, and its picture shows them."""

import pytest

from minillm.course.scenes.cache_stepper import (
    EVENTS,
    KINDS,
    LAST_STEP,
    N_BLOCKS,
    N_SINKS,
    TEXT,
    cache_controls,
    paged_states,
    slot_states,
    stepper_view,
)
from minillm.course.widgets import Explorer


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("kind", ["contiguous", "rolling", "sinks"])
def test_slots_hold_what_the_kind_of_cache_promises(kind, size):
    for state in slot_states(kind, LAST_STEP, size):
        held = {token for token in state.slots if token is not None}
        every = range(state.seen)
        if kind == "contiguous":
            assert held == set(every) and len(state.slots) == LAST_STEP
        elif kind == "rolling":
            assert held == set(every[-size:]) and len(state.slots) == size
            assert all(token is None or token % size == slot for slot, token in enumerate(state.slots))
        else:
            assert held == set(every[:N_SINKS]) | set(every[-size:]) and len(state.slots) == N_SINKS + size
        places = [position for position in state.positions if position is not None]
        newest = state.seen - 1
        assert max(places) == (min(newest, N_SINKS + size - 1) if kind == "sinks" else newest)
        assert len(set(places)) == len(places) == len(held)


@pytest.mark.parametrize("block_len", range(2, 7))
def test_blocks_hold_each_text_and_are_counted(block_len):
    said: dict[str, list[str]] = {}
    for state, event in zip(paged_states(len(EVENTS), block_len), [None, *EVENTS], strict=True):
        if event is not None:
            name, action, words = event
            said[name] = list(said["A"]) if action.startswith("answers") else said.get(name, []) + words.split()
            if action.startswith("has ended"):
                del said[name]
        assert set(state.tables) == set(said)
        for name, words in said.items():
            table = state.tables[name]
            stored = [word for block in table for word in state.words[block] if word is not None]
            assert stored[: len(words)] == words and state.counts[name] == len(words)
            assert len(table) == -(-len(words) // block_len)
        held = [block for table in state.tables.values() for block in table]
        assert list(state.ref_counts) == [held.count(block) for block in range(N_BLOCKS)]
        assert sorted(state.free_blocks) == [block for block in range(N_BLOCKS) if block not in held]
        assert len(state.written) == (0 if event is None else len(event[2].split()))


def test_copies_are_made_where_a_shared_block_is_half_full():
    assert paged_states(len(EVENTS), 5)[-1].copies == 0  # the prompt fills its block
    for block_len in (2, 3, 4, 6):
        states = paged_states(len(EVENTS), block_len)
        assert states[2].copies == 0 and states[3].copies == 1 and "took a copy" in states[3].event


def test_picture_follows_the_controls_and_tells_numbers():
    explorer = Explorer(stepper_view, "two texts that share the blocks of one prompt", **cache_controls())
    seen = {explorer.picture.value}
    for control, value in (("step", 8), ("size", 2), ("kind", "rolling"), ("kind", "sinks"), ("kind", "contiguous")):
        explorer.controls[control].value = value
        seen.add(explorer.picture.value)
    assert len(seen) == 6
    for kind in KINDS:
        for step in (0, LAST_STEP):
            assert stepper_view(kind, step, 4).axes
    upper, lower = stepper_view("sinks", 9, 4).axes
    assert upper.get_title() == "the text: 9 tokens seen, 5 held" and lower.get_title() == "sinks cache: 5 slots"
    assert [text.get_text() for text in lower.texts][:5] == ["Mia", *TEXT[5:9]]


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="kind='ring'"):
        stepper_view("ring", 3, 4)
    with pytest.raises(ValueError, match="kind='paged'"):
        slot_states("paged", 3, 4)
