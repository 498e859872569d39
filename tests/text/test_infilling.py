r"""Blank infilling: nothing is lost, and each token stands at its two places."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.text.corruption import random_spans
from minillm.text.infilling import blank_infilling

BLANK, START, END = 100, 101, 102


def test_the_example_of_the_docstring():
    a, b, c, d, e = range(5)
    cut = blank_infilling([a, b, c, d, e], [(1, 3), (4, 5)], BLANK, START, END, [1, 0])
    assert cut.token_ids.tolist() == [a, BLANK, d, BLANK, START, e, START, b, c]
    assert cut.targets.tolist() == [-100] * 4 + [e, END, b, c, END]
    assert cut.text_positions.tolist() == [0, 1, 2, 3, 3, 3, 1, 1, 1]
    assert cut.span_positions.tolist() == [0] * 4 + [1, 2, 1, 2, 3]
    assert cut.order.tolist() == [0] * 4 + [1, 2, 3, 4, 5]


@given(n=st.integers(8, 60), seed=st.integers(0, 2**31))
def test_the_text_can_be_put_together_again(n, seed):
    generator = torch.Generator().manual_seed(seed)
    text = list(range(n))
    spans = random_spans(n, generator, 0.3, 2.0)
    cut = blank_infilling(text, spans, BLANK, START, END, torch.randperm(len(spans), generator=generator).tolist())
    n_a = int((cut.order == 0).sum())
    filled = {i: [int(t)] for i, t in enumerate(cut.token_ids[:n_a])}
    for place in {int(p) for p in cut.text_positions[n_a:]}:
        of_span = (cut.text_positions == place) & (cut.order > 0)
        written = cut.targets[of_span].tolist()
        assert written[-1] == END and cut.span_positions[of_span].tolist() == list(range(1, len(written) + 1))
        filled[place] = written[:-1]
    assert sum(filled.values(), []) == text


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"span_order=\[0, 0\]"):
        blank_infilling([1, 2, 3, 4], [(0, 1), (2, 3)], BLANK, START, END, [0, 0])
