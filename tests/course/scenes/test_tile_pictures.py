r"""The states of tiles, and the pictures of them."""

from collections import Counter

import pytest

from minillm.course.plots import png_bytes
from minillm.course.scenes.tile_pictures import LOOKS, ring_picture, tile_states, tiles_picture


@pytest.mark.parametrize("causal", [False, True])
def test_one_tile_is_alive_and_none_is_lost(causal):
    n_tiles = 10 if causal else 16
    for done in range(n_tiles):
        states = tile_states(4, done, causal)
        counts = Counter(state for row in states for state in row)
        assert counts == Counter(
            {"forgotten": done, "alive": 1, "to come": n_tiles - done - 1, "never made": 16 - n_tiles}
        ), done
    assert [row.index("alive") for row in tile_states(4, 5, False) if "alive" in row] == [1]
    above = [tile_states(4, 0, True)[i][j] for i in range(4) for j in range(i + 1, 4)]
    assert set(above) == {"never made"}


def test_pictures_are_drawn():
    first = tiles_picture({"whole": tile_states(3, 4, False), "causal": tile_states(3, 4, True)})
    assert {text.get_text() for text in first.legends[0].get_texts()} == set(LOOKS)
    ring = ring_picture([[0, 1, 2], [2, 0, 1]])
    shown = [text.get_text() for text in ring.axes[0].texts]
    assert shown == ["k0, v0", "k1, v1", "k2, v2", "k2, v2", "k0, v0", "k1, v1"]
    assert all(png_bytes(figure).startswith(b"\x89PNG") for figure in (first, ring))
