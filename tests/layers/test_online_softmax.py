r"""The running softmax against the whole one, for any way to cut the row."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.online_softmax import online_softmax


def start(scores, v):
    shape = (*scores.shape[:-1], 1)
    return (
        torch.full(shape, -math.inf, dtype=scores.dtype),
        torch.zeros(shape, dtype=scores.dtype),
        torch.zeros(*scores.shape[:-1], v.shape[-1], dtype=scores.dtype),
    )


def in_pieces(scores, v, lengths):
    running, begin = start(scores, v), 0
    for length in lengths:
        piece = slice(begin, begin + length)
        running = online_softmax(scores[..., piece], v[..., piece, :], *running)
        begin += length
    assert begin == scores.shape[-1]
    return running


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 2**31), st.booleans())
def test_any_cut_gives_the_softmax_of_the_whole_row(lengths, seed, blocked):
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(2, 3, sum(lengths), generator=generator, dtype=torch.float64)
    v = torch.randn(2, sum(lengths), 4, generator=generator, dtype=torch.float64)
    if blocked:
        hidden = torch.rand(scores.shape, generator=generator) < 0.7
        hidden[..., int(torch.randint(sum(lengths), (), generator=generator))] = False
        scores = scores.masked_fill(hidden, -math.inf)
    largest, total, out = in_pieces(scores, v, lengths)
    assert torch.equal(largest[..., 0], scores.max(-1).values)
    torch.testing.assert_close((largest + total.log())[..., 0], scores.logsumexp(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out / total, torch.softmax(scores, -1) @ v, rtol=1e-11, atol=1e-12)


def test_by_hand():
    # Scores 2, 1, 3 with values 10, 20, 30: after two of them 1 + 1/e, after the third that times 1/e, plus 1.
    e = math.exp(-1.0)
    scores, v = torch.tensor([[2.0, 1.0, 3.0]]).double(), torch.tensor([[10.0], [20.0], [30.0]]).double()
    two = in_pieces(scores[:, :2], v[:2], [1, 1])
    three = in_pieces(scores, v, [1, 1, 1])
    for got, want in ((two, (2.0, 1 + e, 10 + 20 * e)), (three, (3.0, e + e * e + 1, 10 * e + 20 * e * e + 30))):
        assert [round(float(x), 12) for x in got] == [round(x, 12) for x in want]


def test_rows_that_have_seen_nothing_stay_clean_until_they_see_something(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    scores = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    v = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    scores[0, :4] = -math.inf
    running = in_pieces(scores[:, :4], v[:4], [2, 2])
    assert running[0][0] == -math.inf and running[1][0] == 0 and (running[2][0] == 0).all()
    _, total, out = online_softmax(scores[:, 4:], v[4:], *running)
    torch.testing.assert_close(out / total, torch.softmax(scores, -1) @ v, rtol=1e-12, atol=1e-12)


def test_huge_scores_and_huge_jumps_do_not_overflow():
    scores = torch.tensor([[1e4, -1e4, 3e4, 2.9999e4, -3e4, 3e4]])
    v = torch.arange(6.0)[:, None]
    largest, total, out = in_pieces(scores, v, [2, 1, 1, 2])
    assert torch.isfinite(total).all() and torch.isfinite(out).all()
    torch.testing.assert_close(out / total, torch.softmax(scores.double(), -1).float() @ v)
    assert float(largest) == 3e4


def test_arguments_are_left_alone(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    scores, v = torch.randn(2, 3, generator=generator), torch.randn(3, 2, generator=generator)
    running = in_pieces(scores, v, [3])
    given_ = (scores, v, *running)
    before = [x.clone() for x in given_]
    online_softmax(scores, v, *running)
    assert all(torch.equal(x, y) for x, y in zip(given_, before, strict=True))
