r"""Rounding of weights and activations on a device that does not exist, see `tests/pretend.py`."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from minillm.inference.quantization import affine, awq, int4, nf4, outliers, rows, smoothquant, w8a8
from minillm.inference.quantization.nf4_linear import Nf4Linear
from tests import pretend

CASES = {
    "zero point": lambda x, weight: affine.restore_affine(*affine.quantize_affine(weight, 8, 4)),
    "symmetric": lambda x, weight: affine.restore_affine(*affine.quantize_affine(weight, 4, "tensor", True)),
    "groups": lambda x, weight: int4.restore_int4(*affine.quantize_groups(weight, 3, 4)),
    "nf4": lambda x, weight: nf4.restore_nf4(*nf4.nf4_quantize(weight, 8)),
    "double": lambda x, weight: nf4.restore_scales(*nf4.double_quantize(weight.flatten(), 7), 7),
    "nf4 layer": lambda x, weight: Nf4Linear.from_weight(weight, group_size=8)(x),
    "nf4 gradient": lambda x, weight: gradient_through_nf4(x, weight),
    "w8a8": lambda x, weight: w8a8.w8a8_linear(x, *rows.quantize_rows(weight)),
    "outliers": lambda x, weight: outliers.outlier_split(x, weight),
    "smooth": lambda x, weight: smoothquant.smooth(x, weight, smoothquant.smooth_factors(x, weight))[1],
    "factors": lambda x, weight: awq.awq_factors(x, 0.5),
    "left behind": lambda x, weight: weight * torch.ones(weight.shape[1]),  # a famous mistake, to be found out
}


def gradient_through_nf4(x, weight):
    r"""What comes back through a layer of codes."""
    x = x.requires_grad_()
    Nf4Linear.from_weight(weight, group_size=8)(x).sum().backward()
    return x.grad


def counting_mode():
    r"""A mode that bears results whose size depends on numbers."""
    return FakeTensorMode(shape_env=ShapeEnv(allow_dynamic_output_shape_ops=True))


def x_and_weight():
    r"""What every function is called with."""
    return torch.empty(5, 16, device="pretend"), torch.empty(6, 16, device="pretend")


if __name__ == "__main__":
    pretend.tell_devices(CASES, x_and_weight, counting_mode)
