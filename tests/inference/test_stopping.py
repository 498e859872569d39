r"""Stop strings, however the text is cut into pieces; the least length; padding on the left."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.left_padding import left_pad
from minillm.inference.stopping import at_least, cut_at_stop, length_held_back, stop_at

LETTERS = st.text(alphabet="ab\n", max_size=14)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)


@given(LETTERS, STOPS)
def test_a_text_is_cut_before_the_stop_string_that_is_complete_first(text, stops):
    want = text
    for end in range(len(text) + 1):  # letter by letter, as it would be typed
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            want = text[: end - max(map(len, done))]
            break
    assert cut_at_stop(text, stops) == want


@given(LETTERS, STOPS, st.lists(st.integers(0, 14), max_size=6))
def test_pieces_join_to_the_cut_text(text, stops, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    taken, shown = [], []
    for piece in stop_at((taken.append(piece) or piece for piece in pieces), stops):
        shown.append(piece)
        # What has been shown can no longer turn out to be a stop string, and what waits is no longer than one.
        waiting = len("".join(taken)) - len("".join(shown))
        assert waiting < max(map(len, stops), default=1) or cut_at_stop("".join(taken), stops) != "".join(taken)
    whole = "".join(pieces)
    assert "".join(shown) == cut_at_stop(whole, stops) and "" not in shown
    if cut_at_stop(whole, stops) != whole:  # no more is asked for than is needed
        assert cut_at_stop("".join(taken[:-1]), stops) == "".join(taken[:-1])


def test_what_is_held_back():
    assert length_held_back("ab\n", ["\n\n", "\nEND"]) == 1
    assert length_held_back("ab\nEN", ["\n\n", "\nEND"]) == 3
    assert length_held_back("ab", ["\n\n"]) == 0
    with pytest.raises(ValueError, match="empty string"):
        cut_at_stop("abc", ["x", ""])


def test_stop_tokens_wait_for_the_least_length():
    logits = torch.zeros(2, 5)
    hold = at_least(3, [1, 4], prompt_len=2)
    for n_new in range(5):
        got = hold(torch.zeros(2, 2 + n_new, dtype=torch.int64), logits)
        want = [0.0, -torch.inf, 0.0, 0.0, -torch.inf] if n_new < 3 else [0.0] * 5
        assert got.tolist() == [want, want]
    assert logits.eq(0).all()


def test_rows_are_padded_on_the_left():
    token_ids, mask = left_pad([[5], [1, 2, 3], [7, 8]], pad_id=9)
    assert token_ids.tolist() == [[9, 9, 5], [1, 2, 3], [9, 7, 8]]
    assert mask.tolist() == [[False, False, True], [True] * 3, [False, True, True]]
    for rows in ([], [[1], []]):
        with pytest.raises(ValueError, match="at least one row"):
            left_pad(rows)
