r"""Softmax, its logarithm and the pairwise table against torch and loops."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.pairwise import broadcast_pairwise
from minillm.layers.softmax import log_softmax, softmax

scores = st.lists(st.floats(-300, 300), min_size=1, max_size=7)


@given(scores)
def test_softmax_is_the_formula_in_exact_arithmetic(row):
    top = max(row)
    total = math.fsum(math.exp(x - top) for x in row)
    want = torch.tensor([math.exp(x - top) / total for x in row], dtype=torch.float64)
    x = torch.tensor(row, dtype=torch.float64)
    torch.testing.assert_close(softmax(x), want, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_softmax(x), x - (top + math.log(total)), rtol=1e-12, atol=1e-12)


def test_any_dimension_and_dtype_equals_torch(fresh_seed):
    torch.manual_seed(fresh_seed)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = (torch.randn(3, 5, 4) * 10).to(dtype)
        for dim in (-1, 0, 1):
            tolerance = dict(rtol=2e-2, atol=1e-2) if dtype == torch.bfloat16 else dict(rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(softmax(x, dim), x.softmax(dim), **tolerance)
            torch.testing.assert_close(log_softmax(x, dim), x.log_softmax(dim), **tolerance)
            assert softmax(x, dim).dtype == dtype


def test_fused_logarithm_survives_where_two_steps_do_not():
    z = torch.tensor([0.0, 200.0], requires_grad=True)
    log_softmax(z)[0].backward()
    assert torch.equal(z.grad, torch.tensor([1.0, -1.0]))
    assert softmax(z.detach()).log()[0] == -math.inf


def test_pairwise_is_a_double_loop(fresh_seed):
    torch.manual_seed(fresh_seed)
    a, b = torch.randint(-9, 9, (2, 5)), torch.randint(-9, 9, (2, 3))
    want = [[[int(x - y) for y in row_b] for x in row_a] for row_a, row_b in zip(a, b, strict=True)]
    assert broadcast_pairwise(a, b).tolist() == want
