r"""Gated FFNs against loops and transformers, and the width that makes them as large as an MLP."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minillm.layers import gated
from minillm.layers.ffn import GLU, MLP

GATES = {
    "glu": lambda z: 1 / (1 + math.exp(-z)),
    "reglu": lambda z: max(z, 0.0),
    "geglu": lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))),
    "swiglu": lambda z: z / (1 + math.exp(-z)),
}
MODULES = {"glu": "sigmoid", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}


@pytest.mark.parametrize("name", GATES)
def test_gated_ffn_is_its_formula_number_by_number(name, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    d_model, d_ff = 3, 5
    w_gate, w_up = (torch.randn(d_ff, d_model, generator=generator, dtype=torch.float64) for _ in range(2))
    w_down = torch.randn(d_model, d_ff, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 4, d_model, generator=generator, dtype=torch.float64)
    projections = [lambda h, w=w: h @ w.T for w in (w_gate, w_up, w_down)]
    got = getattr(gated, name)(x, *projections)
    want = torch.zeros_like(x)
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        token = x[tuple(place)].tolist()
        hidden = [
            GATES[name](sum(a * b for a, b in zip(w_gate[f].tolist(), token, strict=True)))
            * sum(a * b for a, b in zip(w_up[f].tolist(), token, strict=True))
            for f in range(d_ff)
        ]
        for d in range(d_model):
            want[(*place, d)] = sum(a * b for a, b in zip(w_down[d].tolist(), hidden, strict=True))
    torch.testing.assert_close(got, want)
    module = GLU(d_model, d_ff, MODULES[name]).double()
    for projection, weight in zip((module.gate_proj, module.up_proj, module.down_proj), (w_gate, w_up, w_down),
                                  strict=True):
        projection.weight.data.copy_(weight)
    torch.testing.assert_close(module(x), want)


def test_swiglu_is_the_ffn_of_llama(fresh_seed):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    torch.manual_seed(fresh_seed)
    theirs = llama.LlamaMLP(llama.LlamaConfig(hidden_size=6, intermediate_size=16, num_attention_heads=2))
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(gated.swiglu(x, theirs.gate_proj, theirs.up_proj, theirs.down_proj), theirs(x))
    assert len(list(theirs.parameters())) == 3


def test_geglu_with_the_tanh_approximation_is_the_ffn_of_t5(fresh_seed):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    torch.manual_seed(fresh_seed)
    theirs = t5.T5DenseGatedActDense(t5.T5Config(d_model=6, d_ff=10, feed_forward_proj="gated-gelu")).eval()
    ours = GLU(6, 10, "gelu_tanh")
    ours.gate_proj, ours.up_proj, ours.down_proj = theirs.wi_0, theirs.wi_1, theirs.wo
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_glu_calls_what_is_switched_in(monkeypatch):
    monkeypatch.setattr(gated, "swiglu", lambda x, gate_proj, up_proj, down_proj: x + 100)
    assert GLU(3, 4)(torch.zeros(2, 3)).tolist() == [[100.0] * 3] * 2


@given(st.integers(2, 10**6), st.integers(1, 600))
def test_equal_width_is_two_thirds_rounded_up_to_the_multiple(d_ff, multiple_of):
    width = gated.equal_param_width(d_ff, multiple_of)
    exact = next(n for n in range(int(d_ff * 0.66), d_ff + 1) if 3 * (n + 1) > 2 * d_ff)
    assert width % multiple_of == 0 and exact <= width < exact + multiple_of


def test_equal_width_is_that_of_llama_and_makes_equal_modules():
    assert gated.equal_param_width(4 * 4096, 256) == 11008  # LLaMA 7B
    assert gated.equal_param_width(4 * 5120, 256) == 13824  # LLaMA 13B
    assert gated.equal_param_width(9) == 6 and gated.equal_param_width(2) == 1
    sizes = [sum(p.numel() for p in module.parameters()) for module in (MLP(48, 192), GLU(48, 128))]
    assert sizes[0] == sizes[1] == 8 * 48**2 and gated.equal_param_width(192) == 128
    for sizes in ((1, 1), (6, 0)):
        with pytest.raises(ValueError, match=f"d_ff={sizes[0]}, multiple_of={sizes[1]}"):
            gated.equal_param_width(*sizes)


def test_projections_may_be_any_modules(fresh_seed):
    torch.manual_seed(fresh_seed)
    glu = GLU(4, 6)
    x = torch.randn(3, 4)
    before = glu(x)
    glu.up_proj = nn.Sequential(glu.up_proj, nn.Identity())  # as a wrapper that adds something small would be
    torch.testing.assert_close(glu(x), before)
