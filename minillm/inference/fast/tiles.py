r"""Weights as `kernel.cpp` reads them: in tiles of 16 rows by 32 columns, one after the other, nothing between.

A vector of 64 bytes holds four neighbouring columns of 16 rows, so that each lane of 32 bits works for a row of its own
and no sum over lanes is ever needed. A tile is what the kernel reads in one go:

    8 bits   8 vectors of codes: columns 0-3, 4-7, ...
    4 bits   4 vectors of bytes with two codes each, the first in the lower half: columns 0-3 and 4-7, 8-11 and 12-15,
             ...; then 16 scales and 16 lows, as whole numbers of 16 bits, counted in a unit that is the row's own
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

TILE_ROWS, TILE_COLS = 16, 32
LARGEST_INT16 = 2**15 - 1


@dataclass(frozen=True, eq=False)
class TiledMatrix:
    r"""A matrix in tiles.

    Args:
        tiles: (tile rows, tile columns, bytes of a tile), uint8.
        unit: of each row, what its codes (8 bits) or scales (4 bits) are counted in, float32.
        low_unit: the same for its lows; not used with 8 bits.
        n_bits: 4 or 8.
    Lesson: 11.
    """

    tiles: UInt8[Tensor, "tile_rows tile_cols n_bytes"]
    unit: Float32[Tensor, "R_padded"]
    low_unit: Float32[Tensor, "R_padded"]
    n_bits: int


def tile_int8(codes: Int8[Tensor, "R C"], scales: Float[Tensor, "R 1"]) -> TiledMatrix:
    r"""Lay out int8 weights, value = code * scale.

    Args:
        codes: (R, C), int8, from `rows.quantize_rows`.
        scales: (R, 1).
    Returns: the matrix in tiles, padded with zeros.
    Lesson: 11.
    """
    tiles = _blocks(codes, vectors=8)[..., 0, :].permute(0, 2, 3, 1, 4).flatten(start_dim=2).contiguous()
    unit = _pad_rows(scales.float())[:, 0].contiguous()
    return TiledMatrix(tiles.view(torch.uint8), unit, torch.zeros_like(unit), 8)


def tile_int4(codes: UInt8[Tensor, "R C"], scales: Float[Tensor, "R G"], lows: Float[Tensor, "R G"]) -> TiledMatrix:
    r"""Lay out int4 weights, value = code * scale + low.

    Args:
        codes: (R, C), uint8, 0 to 15, from `int4.int4_groups`.
        scales: (R, G), one for each C / G columns, a multiple of 32, or G = 1.
        lows: the same shape.
    Returns: the matrix in tiles, padded with zeros.
    Raises:
        ValueError: if a group does not cover whole tiles.
    Lesson: 11.
    """
    blocks = _blocks(codes, vectors=4)
    pairs = blocks[..., 0, :] | blocks[..., 1, :] << 4
    tiles = pairs.permute(0, 2, 3, 1, 4).flatten(start_dim=2)
    (unit, scale_bytes), (low_unit, low_bytes) = (_in_units(each, codes.shape[1]) for each in (scales, lows))
    return TiledMatrix(torch.cat([tiles, scale_bytes, low_bytes], dim=2), unit, low_unit, 4)


def _pad_rows(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, -len(x) % TILE_ROWS))


def _blocks(codes: Tensor, vectors: int) -> Tensor:
    r"""Padded codes as (tile rows, 16, tile columns, vectors of a tile, halves of a byte, 4)."""
    padded = _pad_rows(F.pad(codes, (0, -codes.shape[1] % TILE_COLS)))
    return padded.reshape(-1, TILE_ROWS, padded.shape[1] // TILE_COLS, vectors, 8 // vectors, 4)


def _in_units(values: Tensor, n_cols: int) -> tuple[Tensor, Tensor]:
    r"""Numbers as an int16 for each row and tile, counted in units: the units, and the int16 as bytes."""
    n_groups = values.shape[1]
    if n_groups == 1:
        values = values.expand(-1, -(-n_cols // TILE_COLS))
    elif n_cols % (n_groups * TILE_COLS):
        raise ValueError(f"scales {tuple(values.shape)} for {n_cols} columns: the kernel takes groups of a multiple of "
                         f"{TILE_COLS} columns; quantize in such groups")
    else:
        values = values.repeat_interleave(n_cols // (n_groups * TILE_COLS), dim=1)
    values = _pad_rows(values.float())
    units = values.abs().amax(dim=1, keepdim=True) / LARGEST_INT16
    whole = (values / units.where(units > 0, torch.ones_like(units))).round().to(torch.int16)
    in_tiles = whole.reshape(-1, TILE_ROWS, whole.shape[1]).transpose(1, 2).contiguous()
    return units[:, 0].contiguous(), in_tiles.view(torch.uint8)
