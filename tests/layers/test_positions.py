r"""RoPE, sinusoids and ALiBi against complex numbers, loops and their defining properties."""

import math

import pytest
import torch

from minillm.layers.alibi import alibi_bias, alibi_slopes
from minillm.layers.rope import apply_rope, rope_angles, rope_inv_freq
from minillm.layers.sinusoidal import sinusoidal


def test_rope_is_multiplication_by_a_complex_number(fresh_seed):
    torch.manual_seed(fresh_seed)
    dh, base = 10, 500.0
    positions = torch.randint(0, 1000, (2, 6))
    x = torch.randn(2, 3, 6, dh).double()
    got = apply_rope(x, rope_angles(positions, dh, base)[:, None].double())
    for i in range(dh // 2):
        turn = torch.polar(torch.ones(2, 1, 6).double(), positions[:, None].double() * base ** (-2 * i / dh))
        want = torch.complex(x[..., i], x[..., i + dh // 2]) * turn
        torch.testing.assert_close(torch.complex(got[..., i], got[..., i + dh // 2]), want, rtol=1e-4, atol=1e-4)


def test_rope_dot_products_depend_on_distance_alone(fresh_seed):
    torch.manual_seed(fresh_seed)
    q, k = torch.randn(1, 64).double(), torch.randn(1, 64).double()

    def score(i, j):
        turn = [apply_rope(x, torch.tensor([[p]]) * rope_inv_freq(64).double()) for x, p in ((q, i), (k, j))]
        return float((turn[0] * turn[1]).sum())

    assert math.isclose(score(17, 10), score(4017, 4010), rel_tol=1e-9, abs_tol=1e-9)
    assert not math.isclose(score(17, 10), score(18, 10), rel_tol=1e-6)


def test_rope_treats_padding_as_position_zero():
    assert torch.equal(rope_angles(torch.tensor([-1, 0]), 4), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="head_dim=5"):
        rope_inv_freq(5)


def test_sinusoidal_is_the_formula():
    got = sinusoidal(torch.tensor([0, 1, 77]), 6)
    want = [[f(p / 10000 ** (2 * i / 6)) for i in range(3) for f in (math.sin, math.cos)] for p in (0, 1, 77)]
    torch.testing.assert_close(got, torch.tensor(want))
    with pytest.raises(ValueError, match="d_model=5"):
        sinusoidal(torch.arange(3), 5)


def test_alibi_slopes_and_distances():
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-i for i in range(1, 9)]))
    assert alibi_slopes(12)[8:].tolist() == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    bias = alibi_bias(torch.tensor([4, 5]), torch.tensor([0, 5]), torch.tensor([0.5, 0.25]))
    assert bias.tolist() == [[[-2.0, 0.5], [-2.5, 0.0]], [[-1.0, 0.25], [-1.25, 0.0]]]
