r"""The tiles that the kernel reads, taken apart again in the order that the file's first lines promise."""

import pytest
import torch

from minillm.inference.fast.tiles import LARGEST_INT16, TiledMatrix, tile_int4, tile_int8
from minillm.inference.quantization.int4 import int4_groups, restore_int4
from minillm.inference.quantization.rows import quantize_rows


def untiled(matrix: TiledMatrix) -> torch.Tensor:
    r"""Every value of a tiled matrix, padding included, by plain loops over vectors and bytes."""
    n_rows, n_cols = 16 * matrix.tiles.shape[0], 32 * matrix.tiles.shape[1]
    values = torch.zeros(n_rows, n_cols, dtype=torch.float64)
    for tile_row, row_of_tiles in enumerate(matrix.tiles):
        for tile_col, tile in enumerate(row_of_tiles):
            rows = slice(16 * tile_row, 16 * tile_row + 16)
            numbers = tile[256:].view(torch.int16).double().reshape(-1, 16) if matrix.n_bits == 4 else None
            for col in range(32):
                if matrix.n_bits == 8:
                    codes = tile.view(torch.int8)[64 * (col // 4) + col % 4 :: 4][:16].double()
                    value = codes * matrix.unit[rows]
                else:
                    pairs = tile[64 * (col // 8) + col % 4 :: 4][:16]
                    codes = (pairs >> 4 if col % 8 >= 4 else pairs & 15).double()
                    value = codes * numbers[0] * matrix.unit[rows] + numbers[1] * matrix.low_unit[rows]
                values[rows, 32 * tile_col + col] = value
    return values


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (5, 33), (17, 64), (40, 100)])
def test_int8_comes_back_exactly_and_padding_is_zero(shape, fresh_seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(fresh_seed))
    codes, scales = quantize_rows(weight)
    values = untiled(tile_int8(codes, scales))
    assert torch.equal(values[: shape[0], : shape[1]], codes.double() * scales.double())
    assert not values[shape[0] :].any() and not values[:, shape[1] :].any()


@pytest.mark.parametrize(("shape", "group_size"), [
    ((16, 32), 32), ((5, 64), 32), ((33, 128), 64), ((3, 192), 96), ((2, 7), 7), ((20, 40), 40)])
def test_int4_comes_back_but_for_the_rounding_of_scales(shape, group_size, fresh_seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(fresh_seed))
    codes, scales, lows = int4_groups(weight, group_size)
    values = untiled(tile_int4(codes, scales, lows))[: shape[0], : shape[1]]
    step = (15 * scales.amax(dim=1) + lows.abs().amax(dim=1)) / LARGEST_INT16  # half a unit each is what rounding moves
    difference = (values - restore_int4(codes, scales, lows).double()).abs()
    assert bool((difference <= 0.51 * step[:, None]).all())


def test_zeros_stay_zeros():
    for matrix in (tile_int8(*quantize_rows(torch.zeros(3, 40))), tile_int4(*int4_groups(torch.zeros(3, 64)))):
        assert not untiled(matrix).any()


def test_groups_that_do_not_cover_tiles_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        tile_int4(*int4_groups(torch.randn(4, 64), 16))
