r"""Scaled gradients on their way to the optimizer, against torch's own scaler."""

import math

import pytest
import torch
from torch import nn

from minillm.training.unscaling import unscale_and_clip


def test_equals_torch_s_scaler_and_clipping(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    shapes, scale = ((3, 4), (5,), (2, 1)), 2.0**12
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer, scaler = torch.optim.SGD(parameters, 1.0), torch.amp.GradScaler("cpu", init_scale=scale)
    scaled = [scale * torch.randn(shape, generator=generator) for shape in shapes]
    scaler.scale(torch.zeros(()))  # the scaler is ready after its first call
    for parameter, grad in zip(parameters, scaled, strict=True):
        parameter.grad = grad.clone()
    scaler.unscale_(optimizer)
    want_norm = nn.utils.clip_grad_norm_(parameters, 0.5)
    got, norm, overflow = unscale_and_clip(scaled, scale, 0.5)
    assert not overflow
    torch.testing.assert_close(norm, want_norm)
    for grad, parameter in zip(got, parameters, strict=True):
        torch.testing.assert_close(grad, parameter.grad)


def test_short_gradients_stay_and_small_ones_survive():
    grads = [torch.full((4,), 2.0**-20).half()]  # divided by the scale they are below fp16's smallest number
    got, norm, overflow = unscale_and_clip(grads, 2.0**10, 1.0)
    assert got[0].dtype == torch.float32 and torch.equal(got[0], torch.full((4,), 2.0**-30)) and not overflow
    assert float(norm) == pytest.approx(2.0**-29)


@pytest.mark.parametrize("spoilt", [math.inf, -math.inf, math.nan])
def test_overflow_is_seen_in_any_tensor(spoilt):
    grads = [torch.ones(3), torch.tensor([1.0, spoilt]), torch.ones(2)]
    assert unscale_and_clip(grads, 4.0, 1.0)[2]


def test_bad_scales_and_bounds_are_named():
    for arguments, name in (((0.0, 1.0), "loss_scale=0"), ((-2.0, 1.0), "loss_scale=-2"), ((1.0, 0.0), "max_norm=0")):
        with pytest.raises(ValueError, match=name):
            unscale_and_clip([torch.ones(2)], *arguments)
