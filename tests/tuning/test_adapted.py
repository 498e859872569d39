r"""A frozen layer with a change beside it, against finite differences and a plain layer of the merged weight."""

import pytest
import torch
import torch.nn.functional as F

from minillm.tuning import adapted, low_rank


@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_are_those_of_finite_differences(with_bias: bool, fresh_seed: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight, lora_a, lora_b = drawn(2, 3, 5), drawn(4, 5), drawn(2, 5), drawn(4, 2)
    bias = drawn(4) if with_bias else None

    def layer(*parts: torch.Tensor) -> torch.Tensor:
        x, lora_a, lora_b = parts
        return adapted.adapted_linear(x, weight, bias, lora_a, lora_b, 0.5)

    assert torch.autograd.gradcheck(layer, (x, lora_a, lora_b))
    layer(x, lora_a, lora_b).sum().backward()
    assert weight.grad is None and (bias is None or bias.grad is None) and weight.requires_grad
    merged = low_rank.lora_merge(weight, lora_a, lora_b, 0.5)
    torch.testing.assert_close(layer(x, lora_a, lora_b), F.linear(x, merged, bias))


def test_the_layer_below_learns_at_the_first_step(fresh_seed: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed)
    width, rank = 6, 2
    weights = [torch.randn(width, width, generator=generator) for _ in range(3)]
    factors = [[each.requires_grad_() for each in low_rank.lora_init(width, width, rank, generator)] for _ in weights]
    x = torch.randn(4, width, generator=generator)
    for weight, (lora_a, lora_b) in zip(weights, factors, strict=True):
        x = adapted.adapted_linear(x, weight, None, lora_a, lora_b, 2.0)
    x.square().sum().backward()
    assert all(bool(lora_b.grad.any()) for _, lora_b in factors), "every B must move, the lowest too"
    assert not any(bool(lora_a.grad.any()) for lora_a, _ in factors), "B is zero, so A waits a step"
