r"""Residual branches against their drawings, and DeepNorm's constants against the paper."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minillm.layers import residual
from minillm.layers.deepnorm import deepnorm_constants


def drawn(seed: int):
    r"""A stream, a norm with weight and bias that matter, and a part that is not linear."""
    torch.manual_seed(seed)
    d_model = int(torch.randint(3, 9, ()))
    x = torch.randn(2, 3, d_model, dtype=torch.float64) * 3
    norms = [nn.LayerNorm(d_model, dtype=torch.float64) for _ in range(2)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    matrix = torch.randn(d_model, d_model, dtype=torch.float64)
    return x, norms, lambda h: torch.tanh(h @ matrix) + h.square()


def test_each_branch_is_its_drawing(fresh_seed):
    x, (first, second), part = drawn(fresh_seed)
    d_model = x.shape[-1]

    def hand_norm(h, norm):
        spread = h - h.mean(-1, keepdim=True)
        return spread / (spread.pow(2).sum(-1, keepdim=True) / d_model + norm.eps).sqrt() * norm.weight + norm.bias

    with torch.no_grad():
        close = torch.testing.assert_close
        close(residual.pre_norm_branch(x, first, part), x + part(hand_norm(x, first)))
        close(residual.post_norm_branch(x, first, part), hand_norm(x + part(x), first))
        close(residual.sandwich_branch(x, first, second, part), x + hand_norm(part(hand_norm(x, first)), second))
        close(residual.deepnorm_branch(x, first, part, 2.5), hand_norm(2.5 * x + part(x), first))
        close(residual.deepnorm_branch(x, first, part, 1.0), residual.post_norm_branch(x, first, part))


def test_with_a_silent_part_pre_norm_and_sandwich_pass_x_and_deepnorm_gives_its_norm(fresh_seed):
    x, (norm, _), _ = drawn(fresh_seed)
    with torch.no_grad():
        assert torch.equal(residual.pre_norm_branch(x, norm, torch.zeros_like), x)
        assert torch.equal(residual.sandwich_branch(x, norm, torch.zeros_like, torch.tanh), x)
        plain = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
        torch.testing.assert_close(residual.deepnorm_branch(x, norm, torch.zeros_like, 3.0), plain, atol=1e-3, rtol=0)


def test_pre_norm_block_is_a_chain_of_branches_and_torch_s_own_layer(fresh_seed):
    x, (first, second), part = drawn(fresh_seed)
    with torch.no_grad():
        one = residual.pre_norm_branch(x, first, part)
        two = residual.pre_norm_branch(one, second, torch.sin)
        assert torch.equal(residual.pre_norm_block(x, []), x)
        torch.testing.assert_close(residual.pre_norm_block(x, [(first, part), (second, torch.sin)]), two)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, F.gelu, norm_first=True, batch_first=True).eval()
        stream = torch.randn(3, 5, 8)

        def attend(h):
            return layer.self_attn(h, h, h, need_weights=False)[0]

        def feed(h):
            return layer.linear2(F.gelu(layer.linear1(h)))

        ours = residual.pre_norm_block(stream, [(layer.norm1, attend), (layer.norm2, feed)])
        torch.testing.assert_close(ours, layer(stream), atol=1e-5, rtol=1e-5)
        layer.norm_first = False
        post = residual.post_norm_branch(residual.post_norm_branch(stream, layer.norm1, attend), layer.norm2, feed)
        torch.testing.assert_close(post, layer(stream), atol=1e-5, rtol=1e-5)


def test_deepnorm_constants_are_the_paper_s():
    # DeepNet's table in numbers that one can work out by hand
    assert deepnorm_constants(8) == pytest.approx((2.0, 64**-0.25))
    assert deepnorm_constants(8, "encoder-only") == pytest.approx((2.0, 0.35355339))
    assert deepnorm_constants(27, "decoder") == pytest.approx((3.0, 324**-0.25))
    assert deepnorm_constants(1, "encoder", 1) == pytest.approx((0.81, 0.87))
    assert deepnorm_constants(16, "encoder", 2**16) == pytest.approx((0.81 * 4, 0.87 / 4))
    # the published 1,000-layer model has a 500-layer encoder and decoder; alpha and beta move as opposite powers
    for kind in ("decoder-only", "encoder-only", "decoder", "encoder"):
        alphas, betas = zip(*(deepnorm_constants(n, kind, 6) for n in (1, 6, 48, 500)), strict=True)
        products = [a * b for a, b in zip(alphas, betas, strict=True)]
        assert list(alphas) == sorted(alphas) and list(betas) == sorted(betas, reverse=True)
        assert products == pytest.approx([products[0]] * 4)


def test_bad_deepnorm_arguments_are_named():
    with pytest.raises(ValueError, match="n_layers=0"):
        deepnorm_constants(0)
    with pytest.raises(ValueError, match="kind='gpt'"):
        deepnorm_constants(4, "gpt")
    with pytest.raises(ValueError, match="n_decoder_layers=None"):
        deepnorm_constants(4, "encoder")
