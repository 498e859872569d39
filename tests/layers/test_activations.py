r"""Activations against torch, against transformers, and at the points where they are known."""

import math

import pytest
import torch
import torch.nn.functional as F

from minillm.layers import activations, paths
from minillm.layers.activations import ACTIVATIONS, activation

TORCHS = {
    "relu": F.relu, "relu_squared": lambda x: F.relu(x) ** 2, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "quick_gelu": lambda x: x * (1.702 * x).sigmoid(),
    "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda x: x,
}  # fmt: skip
# What Hugging Face's configurations call them.
THEIRS = {
    "relu": "relu", "relu2": "relu_squared", "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu", "silu": "silu", "swish": "silu", "sigmoid": "sigmoid", "tanh": "tanh",
    "linear": "identity",
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_paths_equal_torch(name, dtype, fresh_seed):
    x = (torch.randn(300, generator=torch.Generator().manual_seed(fresh_seed)) * 4).to(dtype)
    for fused in (True, False):
        if fused:
            got = activation(name)(x)
        else:
            with paths.plain_path():
                got = activation(name)(x)
        assert got.dtype == dtype
        if dtype == torch.bfloat16:  # a step more or less of rounding inside
            torch.testing.assert_close(got, TORCHS[name](x), rtol=0.03, atol=0.03)
        else:
            torch.testing.assert_close(got, TORCHS[name](x))


@pytest.mark.parametrize("theirs, ours", THEIRS.items())
def test_there_is_one_for_each_name_of_transformers(theirs, ours, fresh_seed):
    their_functions = pytest.importorskip("transformers.activations").ACT2FN
    x = torch.randn(500, generator=torch.Generator().manual_seed(fresh_seed)) * 4
    torch.testing.assert_close(activation(ours)(x), their_functions[theirs](x), rtol=1e-5, atol=1e-6)


def test_gelu_is_x_times_a_probability(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    drawn = torch.randn(200_000, generator=generator)
    for x in (-1.5, -0.3, 0.0, 0.8, 2.0):
        below = (drawn < x).double().mean().item()
        assert activations.gelu(torch.tensor(x)).item() == pytest.approx(x * below, abs=0.01)
    x = torch.linspace(-6, 6, 12001, dtype=torch.float64)
    assert 1e-4 < (activations.gelu(x) - activations.gelu_tanh(x)).abs().max() < 5e-4


def test_swish_between_a_line_and_relu(fresh_seed):
    x = torch.randn(200, generator=torch.Generator().manual_seed(fresh_seed), dtype=torch.float64) * 3
    assert torch.equal(activations.swish(x, 0.0), x / 2)
    torch.testing.assert_close(activations.swish(x, 1e6), x.clamp(min=0), rtol=0, atol=1e-6)
    beta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: activations.swish(x[:9], b), beta)
    grid = torch.linspace(-3, 0, 300001, dtype=torch.float64)
    lowest = activations.swish(grid).min(0)
    assert lowest.values.item() == pytest.approx(-0.278465, abs=1e-6)
    assert grid[lowest.indices].item() == pytest.approx(-1.278465, abs=1e-4)
    assert math.isclose(lowest.values.item(), grid[lowest.indices].item() + 1, abs_tol=1e-4)  # s' = 0 says so


def test_a_switched_in_function_is_called_on_the_plain_path(monkeypatch):
    for name, function in (("gelu_tanh", "gelu_tanh"), ("silu", "swish"), ("gelu", "gelu"), ("relu", "relu")):
        act = activation(name)
        with monkeypatch.context() as patch:
            patch.setattr(activations, function, lambda x, *args: x + 100)
            assert act(torch.tensor(1.0)).item() < 2
            with paths.plain_path():
                assert act(torch.tensor(1.0)).item() == 101


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="activation='swish': use one of .*'silu'"):
        activation("swish")
