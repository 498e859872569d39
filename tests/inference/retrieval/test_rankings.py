r"""Fused rankings, how good a ranking is, passages and the prompt that they go into."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.retrieval.fusion import reciprocal_rank_fusion
from minillm.inference.retrieval.passages import split_passages
from minillm.inference.retrieval.prompt import INSTRUCTION, grounded_messages
from minillm.inference.retrieval.recall import mean_reciprocal_rank, recall_at
from minillm.text.chat_template import apply_chat_template


def test_fusion_adds_up_reciprocal_ranks(fresh_seed):
    rng = random.Random(fresh_seed)
    rankings = [rng.sample(range(9), rng.randint(1, 9)) for _ in range(3)]
    fused = reciprocal_rank_fusion(rankings, k=3)
    assert sorted(fused) == sorted(set().union(*rankings))

    def score(document):
        return sum(1 / (3 + ranking.index(document) + 1) for ranking in rankings if document in ranking)

    scores = [score(document) for document in fused]
    assert all(a >= b - 1e-12 for a, b in zip(scores, scores[1:], strict=False))


def test_fusion_of_one_or_of_equals():
    assert reciprocal_rank_fusion([[4, 1, 3]]) == [4, 1, 3]
    assert reciprocal_rank_fusion([[1, 2], [2, 1]]) == [1, 2] and reciprocal_rank_fusion([]) == []
    assert reciprocal_rank_fusion([[1, 2, 3], [4, 2, 5]])[0] == 2  # second twice beats first once


def test_recall_and_reciprocal_rank():
    rankings, relevant = [[3, 1, 2], [1, 2, 3], [2, 3, 1]], [{1}, {3, 7}, {9}]
    assert [recall_at(rankings, relevant, k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 3, 2 / 3])
    assert mean_reciprocal_rank(rankings, relevant) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    refused = (lambda: recall_at([], [], 1), lambda: mean_reciprocal_rank([], []), lambda: recall_at([[1]], [{1}], 0))
    for call in refused:
        with pytest.raises(ValueError, match="at least one"):
            call()


@given(words=st.lists(st.text("abc", min_size=1, max_size=3), max_size=30), n_words=st.integers(1, 9), data=st.data())
def test_every_run_of_overlap_plus_one_words_is_whole_in_a_passage(words, n_words, data):
    overlap = data.draw(st.integers(0, n_words - 1))
    passages = [passage.split() for passage in split_passages(" \n".join(words), n_words, overlap)]
    assert all(1 <= len(passage) <= n_words for passage in passages)
    for start in range(len(words) - overlap):
        run = words[start : start + overlap + 1]
        assert any(run == p[i : i + len(run)] for p in passages for i in range(len(p)))
    joined = [word for i, passage in enumerate(passages) for word in passage[overlap if i else 0 :]]
    assert joined == words


def test_passages_keep_their_white_space_and_refuse_bad_sizes():
    assert split_passages("a  b\nc d", 2) == ["a  b", "c d"]
    assert split_passages("a b c", 2, 1) == ["a b", "b c"] and split_passages(" ", 3) == []
    for n_words, overlap in ((0, 0), (2, 2), (2, -1)):
        with pytest.raises(ValueError, match=f"n_words={n_words}, overlap={overlap}"):
            split_passages("a", n_words, overlap)


def test_the_prompt_holds_instruction_passages_and_question_in_order():
    (message,) = grounded_messages("Who?", [" first\n", "second"])
    assert message["role"] == "user"
    assert message["content"] == f"{INSTRUCTION}\n\n[1] first\n\n[2] second\n\nQuestion: Who?"
    assert apply_chat_template([message], True).count("[1] first") == 1
    assert grounded_messages("Who?", [], "")[0]["content"] == "Question: Who?"
