r"""Norms, activations, FFNs and the loss against torch and formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from minillm.layers import paths
from minillm.layers.ffn import GLU, MLP
from minillm.layers.fused import fused_cross_entropy
from minillm.layers.loss import cross_entropy
from minillm.layers.norms import LayerNorm, RMSNorm, layer_norm, rms_norm


def test_norms_equal_torch_on_both_paths(fresh_seed):
    torch.manual_seed(fresh_seed)
    for scale in (1e-3, 1.0, 100.0):  # at 1e-3 the place of eps decides the result
        x, w, b = torch.randn(3, 4, 9) * scale, torch.randn(9), torch.randn(9)
        torch.testing.assert_close(layer_norm(x, w, b, 1e-5), F.layer_norm(x, (9,), w, b, 1e-5))
        torch.testing.assert_close(layer_norm(x, w, None, 0.1), F.layer_norm(x, (9,), w, None, 0.1))
        torch.testing.assert_close(rms_norm(x, w, 1e-6), F.rms_norm(x, (9,), w, 1e-6))
        for module in (LayerNorm(9), LayerNorm(9, bias=False), RMSNorm(9)):
            module.weight.data.copy_(w)
            fused = module(x)
            with paths.plain_path():
                torch.testing.assert_close(module(x), fused)


def test_rms_norm_works_in_float32_and_casts_before_the_weight(fresh_seed):
    torch.manual_seed(fresh_seed)
    x, w = (torch.randn(50, 64) * 30).bfloat16(), torch.randn(64).bfloat16()
    x32 = x.float()
    want = (x32 / (x32.square().mean(-1, keepdim=True) + 1e-6).sqrt()).bfloat16() * w
    assert (rms_norm(x, w) == want).float().mean() > 0.99  # a last bit may round the other way


def test_ffns_are_their_formulas(fresh_seed):
    torch.manual_seed(fresh_seed)
    x = torch.randn(2, 3, 5)
    mlp, glu = MLP(5, 7, "relu", bias=True), GLU(5, 7, "silu", bias=True)
    want = F.linear(F.linear(x, mlp.up_proj.weight, mlp.up_proj.bias).clamp(min=0), mlp.down_proj.weight,
                    mlp.down_proj.bias)
    torch.testing.assert_close(mlp(x), want)
    gate = F.linear(x, glu.gate_proj.weight, glu.gate_proj.bias)
    hidden = gate * torch.sigmoid(gate) * F.linear(x, glu.up_proj.weight, glu.up_proj.bias)
    torch.testing.assert_close(glu(x), F.linear(hidden, glu.down_proj.weight, glu.down_proj.bias))


@pytest.mark.parametrize("function", [cross_entropy, fused_cross_entropy])
def test_cross_entropy_counts_only_real_targets(function, fresh_seed):
    torch.manual_seed(fresh_seed)
    logits, targets = torch.randn(3, 5, 11) * 4, torch.randint(0, 11, (3, 5))
    targets[0, 2:] = -100
    logs = [
        -math.log(math.exp(logits[b, t, targets[b, t]]) / sum(math.exp(z) for z in logits[b, t]))
        for b in range(3) for t in range(5) if targets[b, t] != -100
    ]
    assert float(function(logits, targets)) == pytest.approx(sum(logs) / len(logs), rel=1e-5)
    assert math.isfinite(function(torch.tensor([[0.0, 200.0]]), torch.tensor([0])))
