r"""Several rankings become one."""

from collections import defaultdict
from collections.abc import Sequence


def reciprocal_rank_fusion(rankings: Sequence[Sequence[int]], k: int = 60) -> list[int]:
    r"""Add up 1 / (k + rank) over all rankings: places count, and not scores, which can't be compared.

    Args:
        rankings: document numbers, the best first; a ranking need not hold all documents.
        k: the larger, the less a first place counts more than a second; at least 0.
    Returns: all documents that any ranking holds, the best first; of equal ones the lower number.
    Source: Cormack et al. 2009, Reciprocal Rank Fusion outperforms Condorcet, section 2.
    Lesson: 16.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, document in enumerate(ranking, start=1):
            scores[document] += 1 / (k + rank)
    return sorted(scores, key=lambda document: (-scores[document], document))
