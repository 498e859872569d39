r"""BM25: documents by the words that they share with a question."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Documents = Sequence[Sequence[str]]
VOCABULARY = "the a of model token cache layer mask head weight norm loss".split()


def search_cases(draw: Draw) -> Iterator[Case]:
    yield (["token", "mask"], [["the", "token"], ["the", "mask", "mask"], ["the", "the", "head"], ["the"]]), {}
    for sizes in ({}, {"k1": 1 + draw.size(1, 8) / 4, "b": draw.size(2, 8) / 10}, {"b": 0.0}, {"k1": 0.5, "b": 1.0}):
        documents = [some_words(draw, draw.size(3, 9) + 8 * (i % 3)) for i in range(draw.size(8, 12))]
        documents.append(["model"] * 6 + ["the"])  # one that says a word again and again
        yield ([*some_words(draw, 3), "the", "model", "loss", "model"], documents), sizes
    common = [["the", *some_words(draw, draw.size(2, 9))] for _ in range(7)]
    yield (["the", draw.choice(VOCABULARY), "elsewhere"], [*common, ["of"]], 1.2), {}
    yield (["cache"], [["cache"] * draw.size(2, 4), [], ["head", "mask"]]), {}
    yield (["cache"], []), {}
    yield (["cache"], [[], []]), {}


def some_words(draw: Draw, count: int) -> list[str]:
    r"""Words of which the first of the vocabulary come more often."""
    last = len(VOCABULARY) - 1
    return [VOCABULARY[min(draw.size(0, last), draw.size(0, last))] for _ in range(count)]


def with_word(word: str, documents: Documents) -> int:
    return sum(1 for document in documents if word in document)


def one_added(word: str, documents: Documents) -> float:
    n_with = with_word(word, documents)
    return math.log((len(documents) + 1) / (n_with + 0.5))  # 1 + (N - n + 0.5) / (n + 0.5), as one fraction


def saturated(count: float, length: float, k1: float) -> float:
    return count * (k1 + 1) / (count + k1 * length)


def against_mean(document: Sequence[str], documents: Documents, b: float) -> float:
    mean = sum(map(len, documents)) / len(documents)
    return 1 - b + b * len(document) / mean if mean else 1.0


def scores_with(
    rarity: Callable[[str, Documents], float] = one_added,
    weight: Callable[[float, float, float], float] = saturated,
    length: Callable[[Sequence[str], Documents, float], float] = against_mean,
    words: Callable[[Sequence[str]], Sequence[str]] = list,
    count: Callable[[Sequence[str], str], float] = lambda document, word: document.count(word),
    constants: Callable[[float, float], tuple[float, float]] = lambda k1, b: (k1, b),
) -> Callable[..., Tensor]:
    r"""Scores document by document, word by word, with one thing done in another way."""

    def scores(query_words: Sequence[str], documents_words: Documents, k1: float = 1.5, b: float = 0.75) -> Tensor:
        k1, b = constants(k1, b)
        found = []
        for document in documents_words:
            size = length(document, documents_words, b)
            found.append(math.fsum(rarity(word, documents_words) * weight(count(document, word), size, k1)
                                   for word in words(query_words) if word in document))
        return torch.tensor(found, dtype=torch.float32)

    return scores


def with_a_table(query_words: Sequence[str], documents_words: Documents, k1: float = 1.5, b: float = 0.75) -> Tensor:
    asked = list(query_words)
    counts = torch.tensor([[document.count(word) for word in asked] for document in documents_words])
    counts = counts.double().reshape(len(documents_words), len(asked))
    lengths = torch.tensor([len(document) for document in documents_words], dtype=torch.float64)
    n_with = (counts > 0).sum(0)
    rarity = torch.log1p((len(documents_words) - n_with + 0.5) / (n_with + 0.5))
    size = k1 * (1 - b + b * lengths / lengths.mean().clamp(min=1e-9))[:, None]
    return (rarity * counts * (k1 + 1) / (counts + size).clamp(min=1e-9)).sum(1).float()


def not_below_zero_missing(word: str, documents: Documents) -> float:
    n_with = with_word(word, documents)
    return math.log((len(documents) - n_with + 0.5) / (n_with + 0.5))


def occurrences(word: str, documents: Documents) -> float:
    n_with = sum(list(document).count(word) for document in documents)
    return math.log(1 + max(len(documents) - n_with + 0.5, 0.1) / (n_with + 0.5))


def against_longest(document: Sequence[str], documents: Documents, b: float) -> float:
    return 1 - b + b * len(document) / max(map(len, documents))


BM25_SCORES = Exercise(
    id="inference.retrieval.bm25.bm25_scores",
    lesson="16",
    title="BM25",
    task="Give each of N documents, lists of words, a score for a question, float32 (N,). A word that stands c times "
    "in a document of L words adds\n\n"
    "$$\\ln\\left(1 + \\frac{N - n + 0.5}{n + 0.5}\\right) \\cdot "
    "\\frac{c \\, (k_1 + 1)}{c + k_1 \\, (1 - b + b \\, L / \\bar L)}$$\n\n"
    "where n is the number of documents with that word, and L with a bar the mean length of all documents. A word that "
    "stands twice in the question counts twice. Documents may be empty, and there may be none. Loops are fine.",
    difficulty=2,
    minutes=18,
    points=4,
    seed=167,
    hints=(
        "Four documents, one of them with the word. How large is the first factor? And if all four have it?",
        "Two loops: over the words of the question, over the documents. What depends on the word alone is computed in "
        "the outer one.",
        "A `Counter` for each document says how often a word is in it, 0 if it is not. If a document does not have the "
        "word, it adds nothing, and you need not divide at all: good for empty documents.",
    ),
    cases=search_cases,
    oracle=scores_with(),
    other_style=with_a_table,
    mistakes=(
        Mistake(
            "all words the same",
            scores_with(rarity=lambda word, documents: 1.0),
            "Every word counts the same: `the` as much as the one rare word that the question is about. The first "
            "factor, the logarithm, is missing.",
        ),
        Mistake(
            "rarity without the 1",
            scores_with(rarity=not_below_zero_missing),
            "The 1 inside the logarithm is missing. A word that more than half of the documents have then counts "
            "*against* those that have it.",
        ),
        Mistake(
            "plain idf",
            scores_with(rarity=lambda word, documents: math.log(len(documents) / with_word(word, documents))),
            "Your first factor is ln(N / n). It is 0 for a word that all documents have; BM25's is a little different, "
            "with 0.5 added here and there and a 1 inside.",
        ),
        Mistake(
            "occurrences counted",
            scores_with(rarity=occurrences),
            "For n you count how often the word occurs in all documents together. It is the number of documents that "
            "have it, however often.",
        ),
        Mistake(
            "no saturation",
            scores_with(weight=lambda count, length, k1: count / length),
            "A word that stands there ten times counts ten times as much. In BM25 further occurrences count less and "
            "less: c also stands below the line.",
        ),
        Mistake(
            "once or often",
            scores_with(count=lambda document, word: 1.0),
            "You only look whether the word is there. How often it is there matters too, if less and less.",
        ),
        Mistake(
            "length ignored",
            scores_with(length=lambda document, documents, b: 1.0),
            "`b` makes no difference: a long document has more words of any kind, and wins by its length. Compare its "
            "length with the mean.",
        ),
        Mistake(
            "against the longest",
            scores_with(length=against_longest),
            "You compare a document's length with that of the longest. One very long document would then make all "
            "others look short: it is the mean length that counts.",
        ),
        Mistake(
            "length not inverted",
            scores_with(weight=lambda count, length, k1: saturated(count * length, 1.0, k1)),
            "You multiply the count with the length factor: long documents are favoured. It belongs beside k1, below "
            "the line.",
        ),
        Mistake(
            "factor k1 + 1 missing",
            scores_with(weight=lambda count, length, k1: count / (count + k1 * length)),
            "The factor k1 + 1 is missing. It changes no order, but scores of different k1 could not be compared: with "
            "it, one occurrence in a document of mean length counts 1.",
        ),
        Mistake(
            "k1 and b swapped",
            scores_with(constants=lambda k1, b: (b, k1)),
            "k1 and b have changed places: k1 says how slowly repetition loses its weight, b how much length matters.",
        ),
        Mistake(
            "question as a set",
            scores_with(words=lambda query: sorted(set(query))),
            "A word that stands twice in the question counts once with you. Here it counts as often as it stands "
            "there.",
        ),
        Mistake(
            "share of the document",
            scores_with(count=lambda document, word: document.count(word) / len(document)),
            "For c you take the word's share of the document. Length is dealt with by b already; c is a plain count.",
        ),
        Mistake(
            "always the default constants",
            scores_with(constants=lambda k1, b: (1.5, 0.75)),
            "`k1` and `b` make no difference: you compute with 1.5 and 0.75 whatever is given.",
        ),
    ),
)
