r"""BM25: which documents hold the words of a question, the rare ones above all?"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def bm25_scores(
    query_words: Sequence[str], documents_words: Sequence[Sequence[str]], k1: float = 1.5, b: float = 0.75
) -> Float[Tensor, "N"]:
    r"""How well each document fits a question, by the words that they share.

    A word counts the more, the fewer documents have it; its second occurrence in a document counts less than its first;
    and a long document must have it more often than a short one.

    Args:
        query_words: of the question; a word that stands in it twice counts twice.
        documents_words: the words of each of the N documents.
        k1: how slowly further occurrences lose their weight, above 0.
        b: how much length matters, 0 (not at all) to 1.
    Returns: (N,), float32, at least 0; a document without any of the words has 0.
    Source: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, eq. 3.15; with 1 added inside the
        logarithm, as Lucene does, so that a word that most documents have cannot count against them.
    Lesson: 16.
    """
    n_documents = len(documents_words)
    counts = [Counter(words) for words in documents_words]
    mean_length = sum(map(len, documents_words)) / max(n_documents, 1)
    scores = torch.zeros(n_documents)
    for word in query_words:
        n_with = sum(word in count for count in counts)
        rarity = math.log(1 + (n_documents - n_with + 0.5) / (n_with + 0.5))
        for i, count in enumerate(counts):
            if word in count:
                length = 1 - b + b * len(documents_words[i]) / mean_length
                scores[i] += rarity * count[word] * (k1 + 1) / (count[word] + k1 * length)
    return scores


def best_first(scores: Float[Tensor, "N"], top_k: int | None = None) -> list[int]:
    r"""The numbers of the documents, the best first; of equal ones that with the lower number.

    Args:
        scores: (N,), float.
        top_k: how many at most; None = all.
    Returns: document numbers.
    Lesson: 16.
    """
    return scores.argsort(descending=True, stable=True)[:top_k].tolist()
