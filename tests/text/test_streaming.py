"""Pieces of text: joined they are the text, and no piece waits longer than it has to."""

from hypothesis import given
from hypothesis import strategies as st

from minillm.text.streaming import decode_pieces


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.lists(st.integers(0, 80), max_size=12))
def test_what_is_shown_is_all_that_is_complete(text: str, cuts: list[int]):
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = decode_pieces([data[a:b] for a, b in zip(edges, edges[1:], strict=False)])
    shown = ""
    for piece, edge in zip(pieces, edges[1:], strict=True):
        shown += piece
        whole = [n for n in range(len(text) + 1) if len(text[:n].encode()) <= edge]
        assert shown == text[: max(whole)]
    assert shown == text


def test_a_character_in_three_tokens():
    assert decode_pieces([b"a\xe4", b"\xbd", b"\xa0b", b""]) == ["a", "", "你b", ""]
