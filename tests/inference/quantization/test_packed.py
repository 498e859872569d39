r"""torch's packed kernels: as the readable products, only where they are sound, and never required."""

import pytest
import torch

from minillm.inference.quantization import int4, int8_linear, packed, rows


@pytest.fixture
def fresh_probes():
    r"""Probes that have not been made yet, before and after the test."""
    for probe in (packed.int8_kernel_works, packed.int4_kernel_works):
        probe.cache_clear()
    yield
    for probe in (packed.int8_kernel_works, packed.int4_kernel_works):
        probe.cache_clear()


def drawn(seed, n_rows, n_columns, *shape):
    r"""A matrix and activations."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, n_columns, generator=generator).bfloat16()
    return torch.randn(n_rows, n_columns, generator=generator), x


def furthest(x, weight, n_columns):
    r"""Half of what rounding may come to: scales, sums and results in bfloat16, each by 2^-9; twice that is allowed."""
    return (x.double().abs() @ weight.double().abs().T) * 2.0**-8 * 3 + 1e-6


@pytest.mark.parametrize("shape", [(1,), (2, 3), (1, 16), (16, 1, 1)])
def test_int8_as_the_readable_product(shape, fresh_seed):
    if not packed.int8_kernel_works():
        pytest.skip("this torch has no kernel for 8 bits that works here")
    for n_rows, n_columns in ((1, 16), (7, 48), (33, 64), (96, 80)):
        weight, x = drawn(fresh_seed, n_rows, n_columns, *shape)
        q, scales = rows.quantize_rows(weight)
        assert packed.suits_int8(x)
        got, want = packed.int8_product(x, q, scales), x.double() @ (q.double() * scales.double()).T
        assert got.shape == (*shape, n_rows) and got.dtype == torch.bfloat16
        assert bool(((got.double() - want).abs() <= furthest(x, weight, n_columns)).all())


@pytest.mark.parametrize("group_size", packed.GROUP_SIZES)
def test_int4_as_the_readable_product(group_size, fresh_seed):
    if not packed.int4_kernel_works():
        pytest.skip("this torch has no kernel for 4 bits that works here")
    for n_rows, n_groups in ((16, 1), (48, 3), (96, 2)):
        weight, x = drawn(fresh_seed, n_rows, n_groups * group_size, 2, 3)
        codes, scales, lows = int4.int4_groups(weight, group_size)
        assert packed.suits_int4(x, n_rows, group_size)
        got = packed.int4_product(x, packed.pack_int4(codes, scales, lows))
        want = x.double() @ int4.restore_int4(codes, scales, lows).double().T
        assert got.shape == (2, 3, n_rows) and got.dtype == torch.bfloat16
        # scale and middle are rounded: a value is off by 2^-9 of 8 steps and of |low| + 8 steps at most
        sizes = (8 * scales + lows.abs() / 2).repeat_interleave(group_size, dim=1)
        assert bool(((got.double() - want).abs() <= furthest(x, sizes, n_groups * group_size)).all())


def test_what_the_kernels_cannot_do_is_not_asked_of_them():
    x = torch.ones(2, 32, dtype=torch.bfloat16)
    assert not packed.suits_int8(x.float()) and not packed.suits_int8(x.half()) and not packed.suits_int8(x.to("meta"))
    assert not packed.suits_int8(torch.ones(17, 32, dtype=torch.bfloat16)), "many rows: restoring once pays"
    assert not packed.suits_int8(torch.ones(0, 32, dtype=torch.bfloat16))
    for n_columns in (1, 8, 24, 33, 100):  # it would read beyond its memory
        assert not packed.suits_int8(torch.ones(1, n_columns, dtype=torch.bfloat16))
        with pytest.raises(ValueError, match=f"{n_columns} columns"):
            packed.int8_product(torch.ones(1, n_columns, dtype=torch.bfloat16),
                                torch.ones(4, n_columns, dtype=torch.int8), torch.ones(4, 1))
    wants_gradient = x.clone().requires_grad_()
    assert not packed.suits_int8(wants_gradient) and not packed.suits_int4(wants_gradient, 16, 32)
    with torch.no_grad():
        assert packed.suits_int8(wants_gradient) == packed.int8_kernel_works()
    assert not packed.suits_int4(x, 17, 32) and not packed.suits_int4(x, 16, 16)
    for n_rows, group_size in ((17, 32), (16, 16)):
        with pytest.raises(ValueError, match=f"groups of {group_size}.*use int4_linear"):
            packed.pack_int4(torch.ones(n_rows, 32, dtype=torch.uint8), *torch.ones(2, n_rows, 32 // group_size))


@pytest.mark.parametrize("problem", [RuntimeError("not built for this processor"), AttributeError("no such function")])
def test_where_torch_has_none_the_probe_says_so(problem, fresh_probes, monkeypatch):
    def fail(*_):
        raise problem

    monkeypatch.setattr(torch, "_weight_int8pack_mm", fail)
    monkeypatch.setattr(torch, "_convert_weight_to_int4pack_for_cpu", fail)
    x = torch.ones(2, 32, dtype=torch.bfloat16)
    assert not packed.suits_int8(x) and not packed.suits_int4(x, 16, 32)


def test_a_kernel_that_computes_something_else_is_found_out(fresh_probes, monkeypatch):
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda x, q, scales: x.new_zeros(len(x), len(q)))
    monkeypatch.setattr(torch, "_convert_weight_to_int4pack_for_cpu", lambda codes, tiles: codes)
    monkeypatch.setattr(torch, "_weight_int4pack_mm_for_cpu", lambda x, weight, size, both: x @ weight.bfloat16().T)
    assert not packed.int8_kernel_works() and not packed.int4_kernel_works()


def test_a_trial_is_what_the_readable_products_give():
    r"""The probe compares; here the readable side of it is compared with the matrix itself."""
    weight, x = packed._trial()
    want, codes = x.float() @ weight.T, int4.int4_groups(weight)
    for got in (int8_linear.int8_linear(x, *rows.quantize_rows(weight)),
                int4.int4_linear(x, int4.pack_nibbles(codes[0]), *codes[1:])):
        assert float((got.float() - want).abs().max()) < 0.1 * float(want.abs().max())
