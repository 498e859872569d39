r"""Block tables: as if each token were placed by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.caches import block_table


def one_by_one(table, length, n_new, free, block_len):
    r"""Token after token: open a block when the last one is full."""
    table, free, slots = list(table), list(free), []
    for place in range(length, length + n_new):
        if place % block_len == 0:
            table.append(free.pop(0))
        slots.append(table[-1] * block_len + place % block_len)
    return table, free, slots


@given(st.data(), st.integers(1, 6), st.lists(st.integers(0, 9), max_size=5))
def test_each_token_gets_the_next_slot(data, block_len, chunks):
    free, table, length, seen = data.draw(st.permutations(range(50))), [], 0, []
    for n_new in chunks:
        before = (list(table), list(free))
        want = one_by_one(table, length, n_new, free, block_len)
        got = block_table.block_table_append(table, length, n_new, free, block_len)
        assert got == want and (table, free) == before
        table, free, slots = got
        length, seen = length + n_new, seen + slots
        assert len(table) == block_table.blocks_needed(length, block_len)
    assert len(set(seen)) == len(seen) == length


def test_too_few_blocks_are_refused():
    assert block_table.block_table_append([5], 3, 1, [], 4) == ([5], [], [23])
    with pytest.raises(ValueError, match="2 more tokens need 1 blocks of 4 and only 0 are free"):
        block_table.block_table_append([5], 3, 2, [], 4)
