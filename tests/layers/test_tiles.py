r"""Tiles against the whole table that they are cut from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers import alibi, masks
from minillm.layers.tiles import PositionTable, filled_table, part_of_table, tile_scores, tile_slices, tiles_of


@given(st.integers(0, 30), st.integers(1, 12))
def test_slices_cover_everything_once(seq_len, tile_len):
    pieces = tile_slices(seq_len, tile_len)
    assert [i for piece in pieces for i in range(seq_len)[piece]] == list(range(seq_len))
    assert all(piece.stop - piece.start == tile_len for piece in pieces[:-1])


def test_a_tile_without_tokens_is_refused():
    with pytest.raises(ValueError, match="tile_len=0"):
        tile_slices(5, 0)


@pytest.mark.parametrize("shape", [(7, 9), (1, 9), (7, 1), (9,), (2, 3, 7, 9), (2, 1, 1, 9)])
def test_part_of_a_broadcast_table_is_the_part_of_the_whole(shape, fresh_seed):
    table = torch.randn(shape, generator=torch.Generator().manual_seed(fresh_seed))
    rows, columns = slice(2, 6), slice(4, 9)
    want = table.expand(2, 3, 7, 9)[..., rows, columns]
    assert torch.equal(part_of_table(table, rows, columns).expand(2, 3, 4, 5), want)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("tile_len", [1, 4, 5, 64])
def test_only_tiles_without_a_visible_pair_are_left_out(window, tile_len):
    positions = torch.tensor([-1, -1, *range(15)])
    rule = masks.causal_mask if window is None else lambda q, k: masks.sliding_window_mask(q, k, window)
    whole, seen_pairs = rule(positions, positions), 0
    for rows, seen in tiles_of(17, 17, tile_len, PositionTable(rule, positions, positions)):
        for columns in tile_slices(17, tile_len):
            inside = int(whole[rows, columns].sum())
            assert (columns in seen) == (inside > 0)
            seen_pairs += inside if columns in seen else 0
    assert seen_pairs == int(whole.sum())


def test_causal_tiles_are_little_more_than_half():
    positions = torch.arange(64)
    table = PositionTable(masks.causal_mask, positions, positions)
    assert sum(len(seen) for _, seen in tiles_of(64, 64, 8, table)) == 8 * 9 // 2


def test_a_rule_gives_the_same_scores_as_the_table_it_stands_for(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    q, k = (torch.randn(2, 3, t, 4, generator=generator, dtype=torch.float64) for t in (5, 7))
    q_positions, kv_positions = torch.tensor([[2, 3, 4, 5, 6], [-1, 2, 3, 4, 5]]), torch.tensor([[*range(7)]] * 2)
    slopes = alibi.alibi_slopes(3).double()
    mask = PositionTable(masks.causal_mask, q_positions, kv_positions)
    bias = PositionTable(lambda a, b: alibi.alibi_bias(a, b, slopes), q_positions, kv_positions)
    rows, columns = slice(1, 4), slice(3, 7)
    whole = (q @ k.mT) / 2 + alibi.alibi_bias(q_positions, kv_positions, slopes)
    want = torch.where(masks.causal_mask(q_positions, kv_positions)[:, None], whole, -torch.inf)[..., rows, columns]
    torch.testing.assert_close(tile_scores(q, k, rows, columns, mask, bias), want)
    assert torch.equal(filled_table(mask, 4)[:, 0], masks.causal_mask(q_positions, kv_positions)), (
        "a mask by row of the batch gets a dimension for the heads"
    )


def test_half_precision_scores_are_float32(fresh_seed):
    q = torch.randn(3, 8, generator=torch.Generator().manual_seed(fresh_seed)).bfloat16()
    scores = tile_scores(q, q, slice(0, 2), slice(1, 3))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, (q.float() @ q.float().T)[:2, 1:] / 8**0.5)
