r"""BM25 against its formula in loops, and against what it promises."""

import math
import random

import pytest
import torch

from minillm.inference.retrieval import bm25
from minillm.inference.retrieval.words import search_words


def by_formula(query, documents, k1, b):
    n, mean = len(documents), sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in query:
            n_with = len([d for d in documents if word in d])
            idf = math.log((n + 1) / (n_with + 0.5))  # 1 + (n - n_with + 0.5) / (n_with + 0.5), in one fraction
            tf = document.count(word)
            score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.6, 0.0), (3.0, 1.0)])
def test_scores_are_the_formula(k1, b, fresh_seed):
    rng = random.Random(fresh_seed)
    documents = [rng.choices("abcdefgh", weights=range(1, 9), k=rng.randint(1, 20)) for _ in range(12)]
    query = rng.choices("abcdefghz", k=5)
    got = bm25.bm25_scores(query, documents, k1, b)
    torch.testing.assert_close(got, torch.tensor(by_formula(query, documents, k1, b)), rtol=1e-5, atol=1e-6)
    assert got.dtype == torch.float32 and float(got.min()) >= 0


def test_rare_words_count_more_repetition_less_and_length_against():
    documents = [["common", "rare"], ["common"] * 2, ["common", "x"], ["common", "y"]]
    scores = bm25.bm25_scores(["common", "rare"], documents)
    assert bm25.best_first(scores, 2) == [0, 1]
    one, two, four = (float(bm25.bm25_scores(["w"], [["w"] * n + ["x"] * (4 - n), ["x"] * 4])[0]) for n in (1, 2, 4))
    assert one < two < four < 2 * two < 4 * one
    short, long = bm25.bm25_scores(["w"], [["w", "x"], ["w"] + ["x"] * 9]).tolist()
    assert short > long
    flat = bm25.bm25_scores(["w"], [["w", "x"], ["w"] + ["x"] * 9], b=0.0)
    assert flat[0] == flat[1]


def test_nothing_shared_and_nothing_there():
    assert bm25.bm25_scores(["z"], [["a"], []]).tolist() == [0.0, 0.0]
    assert bm25.bm25_scores(["z"], []).shape == (0,)
    assert bm25.bm25_scores(["z"], [[], []]).tolist() == [0.0, 0.0]
    assert bm25.bm25_scores([], [["a"]]).tolist() == [0.0]


def test_equal_scores_keep_the_order_of_documents():
    assert bm25.best_first(torch.tensor([1.0, 2.0, 2.0, 1.0])) == [1, 2, 0, 3]


def test_words_of_any_script():
    assert search_words("The os.path_join() of Straße 42, Été!") == ["the", "os", "path", "join", "of", "strasse", "42",
                                                                    "été"]
    assert search_words(" -- ") == []
