r"""Floats by hand, against the floats themselves: every bit pattern of the short ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.quantization import float_formats as formats

SHORT = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float8_e5m2: torch.int8}


def all_numbers(dtype: torch.dtype) -> torch.Tensor:
    r"""Every bit pattern, NaN and infinities among them."""
    whole = SHORT[dtype]
    limits = torch.iinfo(whole)
    return torch.arange(limits.min, limits.max + 1).to(whole).view(dtype)


def some_floats(seed: int, count: int = 20000) -> torch.Tensor:
    r"""float32 with random bits: every size there is."""
    bits = torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(seed))
    return bits.to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("dtype", SHORT)
def test_every_pattern_is_read_as_torch_reads_it(dtype):
    x = all_numbers(dtype)
    value = formats.value_of_bits(*formats.split_bits(x), formats.format_of(dtype))
    torch.testing.assert_close(value, x.double(), rtol=0, atol=0, equal_nan=True)
    zeros = value[value == 0]
    assert len(zeros) == 2 and bool(torch.signbit(zeros).any())  # -0.0 too


def test_float32_is_read_as_torch_reads_it(fresh_seed):
    x = some_floats(fresh_seed)
    value = formats.value_of_bits(*formats.split_bits(x), formats.FORMATS["fp32"])
    torch.testing.assert_close(value, x.double(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", SHORT)
def test_rounding_is_that_of_the_cast(dtype, fresh_seed):
    r"""Random floats; and all the borders: numbers halfway between two neighbours, and a little to each side."""
    kind, exact = formats.format_of(dtype), all_numbers(dtype).float()
    ordered = exact[exact.isfinite()].sort().values
    borders = (ordered[1:].double() + ordered[:-1].double()).div(2).float()
    beside = [torch.nextafter(borders, borders + reach) for reach in (1e30, -1e30)]
    x = torch.cat([some_floats(fresh_seed), exact, borders, *beside])
    torch.testing.assert_close(formats.round_to_format(x, kind), x.to(dtype).double(), rtol=0, atol=0, equal_nan=True)


@given(st.floats(width=64))
def test_rounding_to_float32(value):
    x = torch.tensor([value], dtype=torch.float64)
    torch.testing.assert_close(formats.round_to_format(x, formats.FORMATS["fp32"]), x.float().double(), rtol=0, atol=0,
                               equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, *SHORT])
def test_limits_are_torchs(dtype):
    kind, limits = formats.format_of(dtype), torch.finfo(dtype)
    assert (kind.n_bits, kind.largest, kind.smallest_normal, kind.eps) == (
        limits.bits, limits.max, limits.smallest_normal, limits.eps)
    one = torch.ones(1, dtype=torch.int64)
    assert float(formats.value_of_bits(0 * one, 0 * one, one, kind)) == kind.smallest


def test_bits_of_well_known_numbers():
    assert formats.bit_string(torch.tensor(1.0, dtype=torch.float16)) == "0 01111 0000000000"
    assert formats.bit_string(torch.tensor(-2.5, dtype=torch.bfloat16)) == "1 10000000 0100000"
    assert formats.bit_string(torch.tensor(0.15625)) == "0 01111100 01000000000000000000000"
    assert formats.bit_string(torch.tensor(65504.0, dtype=torch.float16)) == "0 11110 1111111111"


def test_what_is_refused():
    with pytest.raises(ValueError, match="float64"):
        formats.split_bits(torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="x has 2 numbers"):
        formats.bit_string(torch.ones(2))
