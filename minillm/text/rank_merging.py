r"""Applying trained merges to a chunk of any length in time that hardly grows faster than the chunk."""

import heapq
from collections.abc import Mapping, Sequence

from minillm.text.bpe import Pair


def merge_by_rank(token_ids: Sequence[int], merges: Mapping[Pair, tuple[int, int]]) -> list[int]:
    r"""Apply merges, always the one learned first among those that fit, and of equal ones the leftmost.

    What `bpe_encode` does by looking through the whole chunk for each merge, with a heap of the pairs that fit: n log n
    steps. Neighbours are found by links, so joining two tokens moves nothing. A pair in the heap whose tokens have
    changed meanwhile is passed over.

    Args:
        token_ids: (n,) ids, at first the bytes of the chunk; not changed.
        merges: from pair to (rank, new id); the smaller rank was learned first.
    Returns: a new list, in which no merge fits any more.
    Source: Sennrich et al. 2016, section 3.2; with ranks and ids told apart, as files of merges need it.
    Lesson: 16.
    """
    ids: list[int | None] = list(token_ids)  # None: joined to a token on the left
    n = len(ids)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))
    heap: list[tuple[int, int, int, int]] = []  # rank, place of the left token, left id, right id

    def note(place: int) -> None:
        if 0 <= place and after[place] < n:
            pair = (ids[place], ids[after[place]])
            if pair in merges:
                heapq.heappush(heap, (merges[pair][0], place, *pair))

    for place in range(n):
        note(place)
    while heap:
        _, place, left, right = heapq.heappop(heap)
        gone = after[place]
        if ids[place] != left or gone == n or ids[gone] != right:
            continue
        ids[place], ids[gone] = merges[left, right][1], None
        after[place] = after[gone]
        if after[gone] < n:
            before[after[gone]] = place
        note(before[place])
        note(place)
    return [token_id for token_id in ids if token_id is not None]
