r"""The two RoPE layouts give the same scores once the rows of the projections are reordered."""

import random

import pytest
import torch

from minillm.layers import rope_layout
from minillm.layers.rope import apply_rope, rope_angles


@pytest.fixture
def sizes(fresh_seed):
    torch.manual_seed(fresh_seed)
    draw = random.Random(fresh_seed)
    return draw.randint(1, 4), 2 * draw.randint(2, 8), draw.randint(3, 9)  # heads, head_dim, tokens


def test_interleaved_is_multiplication_by_a_complex_number(sizes):
    n_heads, head_dim, seq_len = sizes
    x, angles = torch.randn(2, n_heads, seq_len, head_dim).double(), torch.randn(seq_len, head_dim // 2).double()
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rope_layout.apply_rope_interleaved(x, angles), torch.view_as_real(turned).flatten(-2))


def test_converted_weights_give_the_same_scores(sizes):
    n_heads, head_dim, seq_len = sizes
    x = torch.randn(seq_len, 12).double()
    w_q, w_k = torch.randn(2, n_heads * head_dim, 12).double()
    b_q = torch.randn(n_heads * head_dim).double()
    angles = rope_angles(torch.randint(0, 500, (seq_len,)), head_dim).double()

    def scores(w_q, w_k, b_q, turn):
        q, k = (y.view(seq_len, n_heads, head_dim).transpose(0, 1) for y in (x @ w_q.T + b_q, x @ w_k.T))
        return turn(q, angles) @ turn(k, angles).transpose(-2, -1)

    want = scores(w_q, w_k, b_q, rope_layout.apply_rope_interleaved)
    converted = [rope_layout.interleaved_to_half(weight, n_heads) for weight in (w_q, w_k, b_q)]
    torch.testing.assert_close(scores(*converted, apply_rope), want)
    assert not torch.allclose(scores(w_q, w_k, b_q, apply_rope), want), "the layouts would not differ"
    for weight, there in zip((w_q, w_k, b_q), converted, strict=True):
        assert torch.equal(rope_layout.half_to_interleaved(there, n_heads), weight)


def test_only_the_turned_share_is_reordered():
    weight = torch.arange(2 * 6)
    assert rope_layout.interleaved_to_half(weight, 2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert rope_layout.interleaved_to_half(weight, 2, 4).tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]
    assert rope_layout.half_to_interleaved(weight, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_rows_that_do_not_fit_are_refused():
    for arguments, message in (((5,), "n_heads=5"), ((2, 3), "rotary_dim=3"), ((2, 8), "rotary_dim=8"), ((4,), "=3")):
        with pytest.raises(ValueError, match=message):
            rope_layout.interleaved_to_half(torch.zeros(12, 3), *arguments)
