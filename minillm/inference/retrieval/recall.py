r"""How good is a ranking, when it is known which documents hold the answer?"""

from collections.abc import Sequence, Set


def recall_at(rankings: Sequence[Sequence[int]], relevant: Sequence[Set[int]], k: int) -> float:
    r"""The share of questions that have a relevant document among the first k.

    Args:
        rankings: one a question: document numbers, the best first.
        relevant: one a question: the documents that answer it.
        k: how many documents are looked at, at least 1.
    Returns: 0 to 1. With one relevant document a question this is recall@k; with more, it is also called hit rate.
    Raises:
        ValueError: if there is no question, or k is less than 1.
    Source: Karpukhin et al. 2020, Dense Passage Retrieval, table 2 ("top-k retrieval accuracy").
    Lesson: 16.
    """
    if not rankings or k < 1:
        raise ValueError(f"{len(rankings)} rankings, k={k}: give at least one ranking and look at 1 document or more")
    found = [not wanted.isdisjoint(ranking[:k]) for ranking, wanted in zip(rankings, relevant, strict=True)]
    return sum(found) / len(found)


def mean_reciprocal_rank(rankings: Sequence[Sequence[int]], relevant: Sequence[Set[int]]) -> float:
    r"""The mean over questions of 1 / the rank of the first relevant document; 0 where there is none.

    Args:
        rankings: one a question: document numbers, the best first.
        relevant: one a question: the documents that answer it.
    Returns: 0 to 1.
    Raises:
        ValueError: if there is no question.
    Source: Voorhees 1999, The TREC-8 Question Answering Track Report.
    Lesson: 16.
    """
    if not rankings:
        raise ValueError("rankings is empty: give at least one")
    total = 0.0
    for ranking, wanted in zip(rankings, relevant, strict=True):
        total += next((1 / rank for rank, document in enumerate(ranking, start=1) if document in wanted), 0.0)
    return total / len(rankings)
