r"""Products of whole numbers: exact; and layers that are off by no more than their steps allow."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.inference.quantization import rows, w8a8


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 7, 1024, 1025, 2600]), st.integers(0, 2**31))
def test_products_are_exact(n_tokens, n_rows, n_columns, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randint(-128, 128, (n, n_columns), generator=generator, dtype=torch.int8)
                 for n in (n_tokens, n_rows))
    expected = torch.from_numpy(x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T).to(torch.int32)
    assert torch.equal(w8a8.int8_matmul(x, weight), expected)
    assert torch.equal(w8a8.int8_matmul_fused(x, weight), expected)


@pytest.mark.parametrize("number", [127, -128])
def test_the_largest_numbers_do_not_overflow(number):
    x, weight = torch.full((3, 5000), number, dtype=torch.int8), torch.full((2, 5000), -128, dtype=torch.int8)
    for product in (w8a8.int8_matmul, w8a8.int8_matmul_fused):
        assert product(x, weight).tolist() == [[5000 * number * -128] * 2] * 3


def test_without_torchs_kernel_the_plain_product_is_used(monkeypatch):
    x, weight = torch.full((2, 20), 100, dtype=torch.int8), torch.full((4, 20), 100, dtype=torch.int8)
    monkeypatch.setattr(w8a8, "has_int_mm", lambda device_type: True)
    asked = []

    def refuse(*tensors):
        asked.append(len(tensors))
        raise RuntimeError("sizes")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    assert w8a8.int8_matmul_fused(x, weight).tolist() == [[200000] * 4] * 2
    assert asked == [2]
    assert w8a8.int8_matmul_fused(x[:, :1], weight[:, :1]).tolist() == [[10000] * 4] * 2
    assert asked == [2]  # a single column is never handed to it


def test_a_kernel_that_saturates_is_not_used(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", lambda x, weight: (x.int() @ weight.int()).clamp(max=32767))
    assert not w8a8.has_int_mm.__wrapped__("cpu")
    monkeypatch.setattr(torch, "_int_mm", lambda x, weight: x.int() @ weight.int())
    assert w8a8.has_int_mm.__wrapped__("cpu")


@pytest.mark.parametrize("per", ["token", "tensor"])
def test_layer_is_off_by_no_more_than_its_steps_allow(per, fresh_seed):
    x, weight, bias = drawn(fresh_seed, 2, 5, 32), drawn(fresh_seed + 1, 9, 32), drawn(fresh_seed + 2, 9)
    x[0, 0] *= 20
    q, scales = rows.quantize_rows(weight)
    restored = q.double() * scales.double()
    exact = x.double() @ restored.T + bias.double()
    out = w8a8.w8a8_linear(x, q, scales, bias, per)
    reach = x.abs().amax(-1, keepdim=True) if per == "token" else x.abs().max()
    bound = reach.double() / 127 / 2 * restored.abs().sum(-1)
    off = (out.double() - exact).abs()
    assert bool((off <= bound * 1.001 + 1e-4).all())
    assert float((off / bound).max()) > 0.02  # something is rounded
    assert out.dtype == torch.float32 and w8a8.w8a8_linear(x.bfloat16(), q, scales, bias, per).dtype == torch.bfloat16


def test_tokens_have_scales_of_their_own(fresh_seed):
    r"""A token in front, 64 times as large, changes nothing for the others; where all share a scale it does."""
    x, (q, scales) = drawn(fresh_seed, 4, 24), rows.quantize_rows(drawn(fresh_seed + 1, 6, 24))
    with_a_large_one = torch.cat([64 * x[:1], x])
    for per, alike in (("token", True), ("tensor", False)):
        alone, beside = w8a8.w8a8_linear(x, q, scales, per=per), w8a8.w8a8_linear(with_a_large_one, q, scales, per=per)
        assert torch.equal(alone, beside[1:]) == alike


def test_what_is_refused():
    with pytest.raises(ValueError, match="per='row'"):
        w8a8.w8a8_linear(torch.ones(2, 3), torch.ones(4, 3, dtype=torch.int8), torch.ones(4, 1), per="row")
